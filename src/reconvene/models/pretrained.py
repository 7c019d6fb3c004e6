"""Published weights of torchvision and timm, where they are on this machine; nothing is ever fetched."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from reconvene.errors import ModelError


def pretrained_file(address: str) -> Path:
    """The file with the weights that torchvision or timm publish for a model.

    Looked for are the folder of ``torch.hub`` and the cache of the Hugging Face hub. Their programs put it there:
    ``torchvision.models.resnet18(weights="DEFAULT")``, ``timm.create_model("resnet18", pretrained=True)``.

    Args:
        address: ``torchvision:NAME`` or ``timm:NAME``, of a model that exists (``resolve_address``).

    Raises:
        ModelError: another family, no published weights, or none of the files is here; the message says which.
    """
    family, _, name = address.partition(":")
    if family not in _PLACES:
        raise ModelError(f"{address} has no published weights that are known here. Name a file (--weights)")
    places = _PLACES[family](name)
    if not places:
        raise ModelError(f"{address}: {family} publishes no weights for it. Name a file (--weights)")
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(map(str, places))
    load = f'{name}(weights="DEFAULT")' if family == "torchvision" else f'create_model("{name}", pretrained=True)'
    raise ModelError(
        f"the weights of {address} are not on this machine: nothing at {looked}. {family}'s {load} fetches them"
    )


def published_normalisation(address: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that the images of published weights were normalised with; None if not known."""
    family, _, name = address.partition(":")
    if family == "torchvision":
        transform = importlib.import_module("torchvision.models").get_model_weights(name).DEFAULT.transforms()
        mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    elif family == "timm":
        config = importlib.import_module("timm").get_pretrained_cfg(name)
        mean, std = getattr(config, "mean", None), getattr(config, "std", None)
    else:
        return None
    return None if mean is None or std is None else (tuple(mean), tuple(std))


def _torchvision_places(name: str) -> list[Path]:
    models = importlib.import_module("torchvision.models")
    return [_in_torch_hub(models.get_model_weights(name).DEFAULT.url)]


def _timm_places(name: str) -> list[Path]:
    config = importlib.import_module("timm").get_pretrained_cfg(name)
    places = []
    if config is not None and config.hf_hub_id:
        hub = importlib.import_module("huggingface_hub")
        for file in (config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"):
            cached = hub.try_to_load_from_cache(config.hf_hub_id, file)
            folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{config.hf_hub_id.replace('/', '--')}"
            places.append(Path(cached) if isinstance(cached, str) else folder / file)
    if config is not None and config.url and not config.url.endswith(".npz"):
        places.append(_in_torch_hub(config.url))
    return places


def _in_torch_hub(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


_PLACES = {"torchvision": _torchvision_places, "timm": _timm_places}
