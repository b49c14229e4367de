"""Numbers and memory of a training on its device."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tilesegment.model.engines.torch import find_precision

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# mallopt(3): the numbers of M_TRIM_THRESHOLD and M_MMAP_MAX.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of a run: as in prediction, and bf16 on CPUs that compute it natively as well."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if (
        name == "auto"
        and device.type == "cpu"
        and (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    ):
        return "bf16"
    return find_precision(name, device)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a forward pass runs in."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])


def keep_grouped_in_float32(network: nn.Module) -> None:
    """Let grouped convolutions compute in float32 under autocast. On CPUs torch has no fast gradient for
    them in bf16: a step of DeepLabV3+ / EfficientNet-Lite0 (16 crops of 256 pixels, two cores with AMX)
    took 1.75 s with them, 1.35 s in float32 throughout and 1.14 s so."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = MethodType(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(module: nn.Conv2d, values: Tensor) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):
        return type(module).forward(module, values.float())


def keep_memory() -> None:
    """Let glibc's allocator keep what is freed: by default it gives the large tensors of every step back
    to the system, and their pages are made anew in the next one (1.65 s a step instead of 1.36)."""
    if sys.platform != "linux":
        return
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
