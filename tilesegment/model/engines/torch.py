"""The torch engine: CPU, CUDA and Apple's GPUs."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilesegment.errors import BlockFailedError, SettingsError
from tilesegment.model.build import load_network, padded_logits
from tilesegment.model.engines import GPU_BATCH, Pending, Setup
from tilesegment.model.preprocess import normalise
from tilesegment.model.store import ModelFile
from tilesegment.tiling.blend import (
    CONTACT_FROM,
    FINE_MAX,
    NODATA,
    PROBABILITY_MAX,
    Accumulator,
    Blended,
    Blender,
    quantise,
)

_log = logging.getLogger("tilesegment")
_TORCH_TYPES = [np.dtype(name) for name in ("bool", "uint8", "int16", "int32", "float32")]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchPredictor:
    """A network on one device.

    On a CPU every forward pass takes one tile on one thread, and `streams` run side by side: torch's
    convolutions give other last bits for other thread counts and other places in a batch, and one tile a
    pass was also the fastest that was measured (regnety_004, 512 px, two cores: 1.44 against 1.28 Mpx/s
    with batches of two, and 1.28 with one pass on two threads).

    On a GPU everything stays there: raw tiles go over from pinned memory on a stream of their own, and are
    normalised, predicted, counted and blended on the device; only finished uint8 rows come back. A batch
    that does not fit is halved, once and for all.

    A compiled network is one for tiles and batches of one size: CUDA graphs on a GPU, C++ on a CPU. Batches
    that are not full are filled with empty tiles.

    Raises SettingsError where the device or the precision is not to be had, or the network cannot be
    compiled.
    """

    def __init__(self, model: ModelFile, setup: Setup) -> None:
        self._device = find_device(setup.device, setup.device_index)
        self._precision = find_precision(setup.precision, self._device)
        self._card, self._setup = model.card, setup
        self.on_cpu = self._device.type == "cpu"
        self.batch = setup.batch or (1 if self.on_cpu else GPU_BATCH)
        self.depth = 2 * setup.streams + 1 if self.on_cpu else 3
        self.name = f"torch {torch.__version__} {self._device.type} {self._precision}"
        network = load_network(model).to(self._device).to(memory_format=torch.channels_last)
        self._network: torch.nn.Module = network.requires_grad_(False)
        self._pool = ThreadPoolExecutor(setup.streams if self.on_cpu else 1, initializer=self._in_stream)
        self._copies: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if setup.compiled:
            self._compile()

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """See `Predictor`."""
        work = self._on_cpu if self.on_cpu else self._on_device
        return self._pool.submit(work, values, valid)

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        if self.on_cpu:
            return Accumulator(weights, self._card.channels, width, top, self._setup.contact)
        return DeviceAccumulator(
            weights, self._card.channels, width, top, self._device, self._setup.contact
        )

    def _compile(self) -> None:
        """Where tiles are predicted: what is compiled holds for a thread's settings."""
        self.name += " compiled"
        # It is said where a CUDA compiler would be, also to those who have no GPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        self._network = torch.compile(  # type: ignore[assignment]
            self._network, dynamic=False, mode=None if self.on_cpu else "reduce-overhead"
        )
        bands, tile = len(self._card.bands), self._setup.tile
        values = np.zeros((self.batch, bands, *tile), self._setup.dtype)
        try:
            self.submit(values, np.ones((self.batch, *tile), np.bool_)).result()
        except (RuntimeError, OSError) as error:
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SettingsError(f"--compile: the network cannot be compiled here ({words})") from error

    def _in_stream(self) -> None:
        # OpenMP's thread count belongs to the calling thread.
        if self.on_cpu:
            torch.set_num_threads(1)

    def _on_cpu(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
        with torch.inference_mode(), self._autocast():
            found = []
            for tile, mask in zip(values, valid, strict=True):
                batch = torch.from_numpy(normalise(tile, mask, self._setup.range, self._card)[None])
                found.append(quantise(self._probability(batch).numpy()))
        return np.concatenate(found)

    def _on_device(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> torch.Tensor:
        raw, mask = self._moved(values), self._moved(valid)
        while True:
            try:
                with torch.inference_mode(), self._autocast():
                    parts = []
                    for begin in range(0, len(raw), self.batch):
                        part = slice(begin, begin + self.batch)
                        ready = self._filled(self._normalised(raw[part], mask[part]))
                        parts.append(_quantised(self._probability(ready)))
                    return torch.cat(parts)[: len(raw)]
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise BlockFailedError(
                        f"one tile does not fit in the memory of {self._device}; use a smaller --tile, or "
                        "--device cpu"
                    ) from None
                self.batch //= 2
                _log.warning("out of memory on %s: going on with batches of %d", self._device, self.batch)
                torch.cuda.empty_cache()

    def _moved(self, array: NDArray[Any]) -> torch.Tensor:
        """An array on the device, by way of pinned memory and a stream that overlaps with the network's."""
        if array.dtype.newbyteorder("=") not in _TORCH_TYPES:
            array = array.astype(np.float32)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._copies is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._copies):
            moved = tensor.pin_memory().to(self._device, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream(self._device))
        return moved

    def _normalised(self, values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The arithmetic of `preprocess.normalise`, on the device."""

        def by_band(numbers: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(numbers, dtype=torch.float32, device=self._device)[None, :, None, None]

        low, high = by_band(self._setup.range.low), by_band(self._setup.range.high)
        scaled = ((values.float() - low) / (high - low)).clamp(0, 1)
        scaled = (scaled - by_band(self._card.mean)) / by_band(self._card.std)
        return torch.where(valid[:, None], scaled, 0.0)

    def _filled(self, tiles: torch.Tensor) -> torch.Tensor:
        """A whole batch, where the network takes no other."""
        missing = self.batch - len(tiles) if self._setup.compiled else 0
        return torch.nn.functional.pad(tiles, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else tiles

    def _probability(self, batch: torch.Tensor) -> torch.Tensor:
        classes = len(self._card.classes)
        found = padded_logits(self._network, batch).float()
        logits = found[:, :classes] / self._card.temperature
        if classes == 1:
            probability = logits.sigmoid()
        elif classes == 2:
            probability = (logits[:, 1:] - logits[:, :1]).sigmoid()
        else:
            probability = logits.softmax(dim=1)
        if self._setup.contact:
            probability = torch.cat([probability, found[:, classes:].sigmoid()], dim=1)
        return probability

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_AUTOCAST[self._precision])


class DeviceAccumulator:
    """The `Blender` of tensors on a device, in whole numbers as `tiling.blend.Accumulator`; finished rows
    come back as uint8 arrays."""

    def __init__(
        self,
        weights: NDArray[np.uint32],
        channels: int,
        width: int,
        top: int,
        device: torch.device,
        contact: bool = False,
    ) -> None:
        self.top, self._width, self._channels = top, width, channels
        # Sums stay below 2**31, see `tiling.blend`; torch adds no unsigned 32-bit numbers.
        self._tile = torch.from_numpy(weights.astype(np.int32)).to(device)
        rows = weights.shape[0]
        self._sums = torch.zeros((channels + contact, rows, width), dtype=torch.int32, device=device)
        self._weight = torch.zeros((rows, width), dtype=torch.int32, device=device)

    def add(self, col: int, counts: torch.Tensor) -> None:
        """See `Blender`."""
        begin, end = max(col, 0), min(col + self._tile.shape[1], self._width)
        part = slice(begin - col, end - col)
        self._weight[:, begin:end] += self._tile[:, part]
        self._sums[:, :, begin:end] += counts[:, :, part] * self._tile[:, part]

    def advance(self, top: int) -> Blended:
        """See `Blender`."""
        rows = min(top - self.top, self._weight.shape[0])
        weight = self._weight[:rows]
        winner, classes = self._sums[: self._channels, :rows].max(dim=0)
        planes = torch.cat([winner[None], self._sums[self._channels :, :rows]])
        # In float32 as `tiling.blend` does, to the same last bit.
        scale = weight.clamp(min=1).float() * (FINE_MAX // PROBABILITY_MAX)
        shares = (planes.float() / scale + (0.5 + 1 / 256)).to(torch.uint8)
        if self._channels == 1 and len(shares) > 1:
            shares[1].masked_fill_(shares[0] < CONTACT_FROM, 0)
        empty = weight == 0
        found = torch.cat([classes.to(torch.uint8)[None], shares]).masked_fill_(empty, NODATA)
        for tensor in (self._sums, self._weight):
            kept = tensor.shape[-2] - rows
            tensor[..., :kept, :] = tensor[..., rows:, :].clone()
            tensor[..., kept:, :] = 0
        self.top = top
        arrays: NDArray[np.uint8] = found.cpu().numpy()
        return arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None


def _quantised(probability: torch.Tensor) -> torch.Tensor:
    """`blend.quantise` on the device."""
    return (probability * FINE_MAX).round().to(torch.int32)


def find_device(name: str, index: int = 0) -> torch.device:
    """A device by name; `auto` takes a GPU where there is one. index: which of several GPUs, where the name
    does not say. Raises SettingsError where it is not to be had."""
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


def find_precision(name: str, device: torch.device) -> str:
    """The precision of a device; `auto` is bf16 on GPUs that have it, fp16 on older ones, else fp32."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
