"""The torch engine: CPU, CUDA and Apple's GPUs."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from tilesegment.errors import SettingsError
from tilesegment.model.build import load_network
from tilesegment.model.store import ModelFile

_GPU_BATCH = 8
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchPredictor:
    """A network on one device.

    On a CPU every forward pass takes one tile on one thread, and `lanes` of them run side by side: torch's
    convolutions give other last bits for other thread counts and other places in a batch, and one tile a
    pass was also the fastest that was measured (regnety_004, 512 px, two cores: 1.44 against 1.28 Mpx/s
    with batches of two, and 1.28 with one pass on two threads).

    Raises SettingsError where the device or the precision is not to be had.
    """

    def __init__(
        self, model: ModelFile, device: str, precision: str, batch: int | None, lanes: int, index: int = 0
    ) -> None:
        self._device = _device(device, index)
        self._precision = _precision(precision, self._device)
        self.batch = batch or (1 if self._device.type == "cpu" else _GPU_BATCH)
        self.lanes = lanes if self._device.type == "cpu" else 1
        self.name = f"torch {torch.__version__} {self._device.type} {self._precision}"
        self._classes = len(model.card.classes)
        network = load_network(model).to(self._device).to(memory_format=torch.channels_last)
        self._network = network.requires_grad_(False)
        self._local = threading.local()

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Predictor`."""
        with torch.inference_mode(), self._autocast():
            batch = torch.from_numpy(tiles)
            if self._device.type != "cpu":
                return self._forward(batch.to(self._device, non_blocking=True))
            self._one_thread()
            return np.concatenate([self._forward(tile[None]) for tile in batch])

    def _forward(self, batch: torch.Tensor) -> NDArray[np.float32]:
        height, width = batch.shape[-2:]
        # Encoders halve five times at most; what the padding adds is cut off again.
        rows, cols = -height % 32, -width % 32
        if rows or cols:
            batch = torch.nn.functional.pad(batch, (0, cols, 0, rows))
        logits = self._network(batch.contiguous(memory_format=torch.channels_last))
        logits = logits[..., :height, :width].float()
        if self._classes == 1:
            probability = logits.sigmoid()
        elif self._classes == 2:
            probability = (logits[:, 1:] - logits[:, :1]).sigmoid()
        else:
            probability = logits.softmax(dim=1)
        result: NDArray[np.float32] = probability.contiguous().cpu().numpy()
        return result

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_AUTOCAST[self._precision])

    def _one_thread(self) -> None:
        # OpenMP's thread count belongs to the calling thread.
        if not getattr(self._local, "ready", False):
            torch.set_num_threads(1)
            self._local.ready = True


def _device(name: str, index: int) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"--device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise SettingsError(f"--device {name}: this machine has {count} usable CUDA devices")
        if device.index is None:
            device = torch.device("cuda", index % count)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("--device mps: this machine has no usable Apple GPU")
    return device


def _precision(name: str, device: torch.device) -> str:
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
