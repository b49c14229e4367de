"""From a data set to batches of tensors. What a batch holds is a function of seed, epoch and index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tilesegment.datasets.sample import IGNORE, Reader, Sample
from tilesegment.datasets.values import BYTES
from tilesegment.errors import InputError, TilesegmentError, TrainingError
from tilesegment.grid import Window
from tilesegment.model.card import Card
from tilesegment.model.preprocess import ValueRange, in_range, normalise
from tilesegment.train.augment import Augment, resized


@dataclass(frozen=True)
class View:
    """A part of a picture that is looked at: its index, and the window that is cut out (None: all)."""

    index: int
    window: Window | None = None


def views(reader: Reader, split: str, size: tuple[int, int], fit: str) -> list[View]:
    """What validation looks at: every picture once, or its windows side by side where pictures are cut and
    larger than `size`."""
    count = len(reader.names(split))
    if fit == "resize":
        return [View(index) for index in range(count)]
    found = []
    for index in range(count):
        height, width = reader.read(split, index, None).label.shape
        found += [
            View(index, Window(row, col, *size))
            for row in range(0, height, size[0])
            for col in range(0, width, size[1])
        ]
    return found


def in_unit_range(sample: Sample, value_range: tuple[float, float]) -> Sample:
    """A sample's values as float32 in 0..1, which augmentation takes for any type of picture."""
    known = ValueRange.of_all(value_range, len(sample.values))
    return replace(sample, values=in_range(sample.values, known))


def to_tensors(
    sample: Sample, card: Card, value_range: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """The network's input (bands, rows, columns) float32, by the same function as in prediction, and the
    label (rows, columns) int64, IGNORE where nothing is valid; for a network with a contact channel
    (2, rows, columns), the classes and the contact. value_range: of the sample, by default the card's."""
    known = ValueRange.of_all(value_range or card.value_range, len(sample.values))
    values = normalise(sample.values, sample.valid, known, card)
    label = np.where(sample.valid, sample.label, IGNORE).astype(np.int64)
    if card.contact:
        contact = np.full(label.shape, IGNORE) if sample.contact is None else sample.contact
        label = np.stack([label, np.where(sample.valid, contact, IGNORE)]).astype(np.int64)
    return torch.from_numpy(values), torch.from_numpy(label)


class TrainingData(Dataset[tuple[Tensor, Tensor]]):
    """Augmented samples by (epoch, index). A key of four numbers is a picture that is seen again: it is
    read as by the last two, with the changes of the first two."""

    def __init__(self, reader: Reader, augment: Augment, card: Card, seed: int) -> None:
        self._reader, self._augment, self._card, self._seed = reader, augment, card, seed
        # Bytes are augmented as bytes, which is quicker.
        self._bytes = card.dtype == "uint8" and card.value_range == BYTES

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return to_tensors(self.sample(*key), self._card, None if self._bytes else (0.0, 1.0))

    def sample(self, epoch: int, index: int, *origin: int) -> Sample:
        """The augmented sample itself; values of other types than bytes are in 0..1."""
        count = len(self._reader.names("train"))
        rng = np.random.default_rng([self._seed, epoch, index])
        first = np.random.default_rng([self._seed, *origin]) if origin else rng
        sample = self._reader.read("train", (origin[1] if origin else index) % count, first)
        if not self._bytes:
            sample = in_unit_range(sample, self._card.value_range)
        return self._augment(sample, int(rng.integers(2**31)))


class FixedData(Dataset[tuple[Tensor, Tensor]]):
    """Views without augmentation."""

    def __init__(
        self,
        reader: Reader,
        split: str,
        chosen: Sequence[View],
        size: tuple[int, int],
        fit: str,
        card: Card,
    ) -> None:
        self._reader, self._split, self._views = reader, split, chosen
        self._size, self._fit, self._card = size, fit, card

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return to_tensors(self.sample(index), self._card)

    def sample(self, index: int) -> Sample:
        """The sample itself."""
        view = self._views[index]
        sample = self._reader.read(self._split, view.index, None)
        if self._fit == "resize":
            return resized(sample, self._size)
        return sample if view.window is None else _cut(sample, view.window)


def _cut(sample: Sample, window: Window) -> Sample:
    """A window of a sample, which may reach beyond it."""
    rows, cols = sample.label.shape
    shape = (window.height, window.width)
    values = np.zeros((len(sample.values), *shape), sample.values.dtype)
    label, valid = np.full(shape, IGNORE, np.uint8), np.zeros(shape, np.bool_)
    here = slice(window.row, min(window.row_end, rows)), slice(window.col, min(window.col_end, cols))
    there = slice(0, here[0].stop - here[0].start), slice(0, here[1].stop - here[1].start)
    values[:, there[0], there[1]] = sample.values[:, here[0], here[1]]
    label[there], valid[there] = sample.label[here], sample.valid[here]
    return Sample(values, label, valid)


def epoch_batches(count: int, size: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """The keys of an epoch's batches, shuffled. A last batch of one, which batch normalisation cannot train
    on, is put to the one before; a single picture is seen twice, differently augmented.

    Raises InputError where there is nothing to train on.
    """
    if count == 0:
        raise InputError("the training split is empty")
    order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    if count == 1:
        order.append(1)
    found = [[(epoch, int(k)) for k in order[i : i + size]] for i in range(0, len(order), size)]
    if size > 1 and len(found) > 1 and len(found[-1]) == 1:
        last = found.pop()
        found[-1] += last
    return found


class Batches:
    """A batch sampler whose content is given for each epoch."""

    def __init__(self) -> None:
        self.keys: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def loader(data: Dataset[Any], batches: Batches, workers: int, pinned: bool) -> DataLoader[Any]:
    """Reads batches, in spawned processes where there are any; these live as long as the loader."""
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_one_thread,
    )


def batches_of(feed: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """What a loader reads. An error of a reading process is raised as the one line it was there, and not
    with that process's traceback in its text."""
    try:
        yield from feed
    except TilesegmentError as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(
            last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a process that reads pictures died, perhaps for want of memory; lower workers or batch"
        ) from error


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
