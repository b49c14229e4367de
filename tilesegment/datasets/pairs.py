"""Pictures with a label file each: finding partners, and the reader that most data sets share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import InputError
from tilesegment.model.card import ModelClass
from tilesegment.raster.picture import read_colour, read_picture

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# What the names of a picture and of its label add to the stem they share.
_ENDINGS = re.compile(
    r"(_leftImg8bit|_gtFine_(color|labelIds|labelTrainIds)|_L|_P|_masks?|_labels?|_sat|_image|_img)$"
)

Decoder = Callable[[NDArray[Any], str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Pair:
    """A picture and its labels. place: where it was taken, for splits by place; metres: its own pixel size,
    None where it is not known or does not matter."""

    name: str
    image: Path
    label: Path
    place: str = ""
    metres: float | None = None


def pictures_in(folder: Path) -> list[Path]:
    """All picture files of a folder, sorted. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise InputError(f"{folder}: holds no picture ({' '.join(PICTURES)})")
    return found


def stem_of(path: Path) -> str:
    """The name that a picture and its label share."""
    stem, before = path.stem, ""
    while stem != before:
        before, stem = stem, _ENDINGS.sub("", stem)
    return stem


def partners(
    images: Iterable[Path], labels: Iterable[Path]
) -> tuple[list[tuple[str, Path, Path]], list[Path], list[Path]]:
    """(stem, image, label) of those that belong together, images without a label, labels without an image.

    Raises InputError where two files of one kind share a stem.
    """
    by_stem = [_by_stem(images), _by_stem(labels)]
    both = sorted(by_stem[0].keys() & by_stem[1].keys())
    alone = [[paths[stem] for stem in sorted(paths.keys() - set(both))] for paths in by_stem]
    return [(stem, by_stem[0][stem], by_stem[1][stem]) for stem in both], alone[0], alone[1]


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        stem = stem_of(path)
        if stem in found:
            raise InputError(f"{path} and {found[stem].name} have the same stem {stem!r}")
        found[stem] = path
    return found


def paired(images: Path, labels: Path, place: str = "", prefix: str = "") -> list[Pair]:
    """The pairs of two folders. Raises InputError where a picture has no label or the other way round."""
    found, no_label, no_image = partners(pictures_in(images), pictures_in(labels))
    for alone, missing in ((no_label, "label"), (no_image, "image")):
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise InputError(
                f"{alone[0]}{more}: no {missing} in {labels if missing == 'label' else images}"
            )
    return [Pair(prefix + stem, image, label, place) for stem, image, label in found]


def first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first of some sub-folders that exists."""
    return next((root / name for name in names if (root / name).is_dir()), None)


@dataclass(frozen=True)
class PairReader:
    """The `Reader` of pictures with label files.

    splits: the pairs by split. decode: class indices from a label file's bands. merge: class index to
    index, where classes are put together. gsd: metres a pixel that pairs of a known size are resampled to.
    halves: picture and label are the left and the right half of the same file.
    """

    classes: tuple[ModelClass, ...]
    splits: dict[str, tuple[Pair, ...]]
    decode: Decoder
    merge: dict[int, int] | None = None
    gsd: float | None = None
    halves: bool = False
    notes: tuple[str, ...] = field(default=())

    def names(self, split: str) -> Sequence[str]:
        """See `Reader`."""
        return [pair.name for pair in self.splits.get(split, ())]

    def read(self, split: str, index: int, rng: np.random.Generator | None = None) -> Sample:
        """See `Reader`."""
        pair = self.splits[split][index]
        scale = None if self.gsd is None or pair.metres is None else pair.metres / self.gsd
        picture, labels = read_colour(pair.image, scale), read_picture(pair.label, scale)
        values, valid = picture.values, picture.valid
        if self.halves:
            middle = values.shape[2] // 2
            values, valid, labels = values[..., :middle], valid[:, :middle], labels[..., middle:]
        if values.shape[1:] != labels.shape[1:]:
            raise InputError(
                f"{pair.image}: {values.shape[2]}x{values.shape[1]} pixels, but its label has "
                f"{labels.shape[2]}x{labels.shape[1]}"
            )
        label = self.decode(labels, str(pair.label))
        if self.merge is not None:
            table = np.full(256, IGNORE, np.uint8)
            table[list(self.merge)] = list(self.merge.values())
            label = table[label]
        return Sample(values, np.where(valid, label, np.uint8(IGNORE)), valid)
