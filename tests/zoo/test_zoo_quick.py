"""One small network per mechanism: structure, half removed, replayed, equal to the silenced reference, trained.

The sweep over whole model zoos (``make test-zoo``) proves the same for every architecture; this is its quick subset.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from support.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))
architectures = importlib.import_module("architectures")
proving = importlib.import_module("architectures.proving")

# The most that may stay of the parameters at half width: no more than stays today, so that what leaves keeps leaving.
KEPT = {
    "own/unet": 0.26,
    "own/hovernet": 0.27,
    "own/weight_norm": 0.28,
    "own/conv1d_flatten": 0.28,
    "own/conv3d": 0.3,
    "own/output_dataclass": 0.57,
    "own/tied_autoencoder": 0.42,
    "own/in_place": 0.39,
    "own/weight_standardisation": 0.3,
    "own/excite_gate": 0.38,
    "own/shuffle": 0.38,
    "own/single_channel": 0.51,
    "own/unequal_split": 0.58,
    "own/lstm": 0.28,
    "own/gru": 0.28,
    "own/multihead_attention": 0.29,
    "own/attention_fused": 0.29,
    "own/attention_grouped": 0.29,
    "own/attention_einsum": 0.29,
    "own/tied_language": 0.28,
    "torchvision/lraspp_mobilenet_v3_large": 0.35,
    "timm/test_vit": 0.35,
    "timm/test_convnext": 0.34,
    "timm/test_byobnet": 0.4,
    "timm/test_coatnet": 0.33,
    "transformers/swin": 0.27,
    "transformers/segformer": 0.31,
    "transformers/wav2vec2": 0.28,
    "transformers/whisper_encoder": 0.53,
    "transformers/bert": 0.29,
}


@pytest.mark.parametrize("name", KEPT)
def test_half_of_it_is_removed_replayed_lossless_and_trains(name: str) -> None:
    library = name.partition("/")[0]
    if library != "own":
        pytest.importorskip(library, reason=f"{library} is not installed")
    told: list[dict[str, Any]] = []
    record = proving.prove_architecture(architectures.all_architectures()[name], told.append)
    assert record["verdict"].startswith("proved"), record
    assert record["kept"] <= KEPT[name], record["pinned_by"]
    assert record["effect"] > 1e-3 or record["kept"] == 1, (
        "silencing half of it must change the output, or the proof shows nothing"
    )
