"""One cell of the matrix of formats and networks: exported, run at batch 1 and 3, and compared in float32 and int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from reconvene import deploy
from reconvene.errors import ExportError, ModelError, VerificationError
from support.format_nets import calibrating, images, labelled

BATCHES = (1, 3)


def measured(name: str, net: nn.Module, format: str, folder: Path) -> dict[str, Any]:
    """What a pruned, trained ``net`` is in a format; where the product refuses it stands why, under ``refused``."""
    net.eval()
    with_int8 = {"quantize": "int8", "calibration": calibrating()}
    row: dict[str, Any] = {"model": name, "format": format, "params": sum(p.numel() for p in net.parameters())}
    for precision, options in (("fp32", {}), ("int8", with_int8)):
        try:
            row[precision] = _precision(name, net, format, folder, options)
        except (ExportError, ModelError, VerificationError) as error:
            row[precision] = {"refused": str(error)}
    return row


def _precision(name: str, net: nn.Module, format: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    x = images(max(BATCHES))
    made = deploy.export(net, folder, format=format, example_inputs=x[:1], data=labelled(name), **options)
    errors = {}
    with torch.no_grad():
        for size in BATCHES:
            (found,) = deploy.run_file(made.path, x[:size]).values()
            expected = net(x[:size])
            errors[str(size)] = float((found - expected).abs().max() / expected.abs().max())
    assert made.verification is not None
    files = [file.name for file in made.files]
    return {"files": files, "bytes": made.bytes, "errors": errors, **_kept(made.verification)}


def _kept(checked: deploy.Verification | deploy.Fidelity) -> dict[str, Any]:
    """What the verification found, in the precision's own terms."""
    wanted = ("samples", "agreement", "sqnr", "quality", "reference_quality")
    facts = checked.to_dict()
    return {key: facts[key] for key in wanted if key in facts}
