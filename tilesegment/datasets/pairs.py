"""Pictures with a label file each: finding partners, and the reader that most data sets share."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilesegment.datasets.buildings import label_of_boxes
from tilesegment.datasets.lists import composed
from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import InputError
from tilesegment.model.card import ModelClass
from tilesegment.raster.picture import Part, nearest, picture_size, read_colour, read_labels

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# What the names of a picture and of its label add to the stem they share.
_ENDINGS = re.compile(
    r"(_leftImg8bit|_gtFine_(color|labelIds|labelTrainIds)|_L|_P|_masks?|_labels?|_sat|_image|_img)$"
)


class Decoder(Protocol):
    """From a label file's bands to class indices. colours: whether a palette's colours are wanted, and not
    its numbers."""

    @property
    def colours(self) -> bool:
        """See the class."""
        ...

    def __call__(self, values: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Class indices (rows, columns); `where` names the file in messages. Raises InputError."""
        ...


@dataclass(frozen=True)
class Pair:
    """A picture and its labels. label: their file, None where `boxes` hold them: (column, row, width,
    height) of each building. place: where it was taken, for splits by place; metres: its own pixel size,
    None where it is not known or does not matter. instances: what tells its buildings apart, see
    `datasets.buildings`; None where nothing does. outlines: a PNG of class indices that takes the place of
    the boxes, see `train.teacher`."""

    name: str
    image: Path
    label: Path | None
    place: str = ""
    metres: float | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    instances: str | None = None
    outlines: bytes = b""


def pictures_in(folder: Path) -> list[Path]:
    """All picture files of a folder, sorted. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    # Names with a dot are hidden: macOS leaves `._NAME.png` beside NAME.png on other systems' disks.
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder}: holds no picture ({' '.join(PICTURES)})")
    return found


def stem_of(path: Path) -> str:
    """The name that a picture and its label share."""
    stem, before = composed(path.stem), ""
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


def paired(images: Path, labels: Path, place: str = "", prefix: str = "", ending: str = "") -> list[Pair]:
    """The pairs of two folders. ending: of the stems of labels that are meant, where some have it. Raises
    InputError where a picture has no label or the other way round."""
    files = pictures_in(labels)
    meant = [path for path in files if ending and path.stem.endswith(ending)]
    found, no_label, no_image = partners(pictures_in(images), meant or files)
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
        if self.gsd is None or pair.metres is None:
            return self.read_part(pair, None)
        scale = pair.metres / self.gsd
        rows, cols = picture_size(pair.image)
        return self.read_part(pair, Part(None, (max(1, round(rows * scale)), max(1, round(cols * scale)))))

    def read_part(self, pair: Pair, part: Part | None) -> Sample:
        """A part of one picture. Raises InputError."""
        picture, label = read_colour(pair.image, part), self.read_label(pair, part)
        values, valid = picture.values, picture.valid
        if self.halves:
            middle = values.shape[2] // 2
            values, valid = values[..., :middle], valid[:, :middle]
        if values.shape[1:] != label.shape:
            raise InputError(
                f"{pair.image}: {values.shape[2]}x{values.shape[1]} pixels, but its label has "
                f"{label.shape[1]}x{label.shape[0]}"
            )
        return Sample(values, np.where(valid, label, np.uint8(IGNORE)), valid)

    def read_label(self, pair: Pair, part: Part | None) -> NDArray[np.uint8]:
        """The label of a part alone, (rows, columns), whatever is valid. Raises InputError."""
        if pair.outlines:
            drawn = np.asarray(Image.open(io.BytesIO(pair.outlines)), np.uint8)
            if part is None:
                return drawn
            return nearest(drawn if part.window is None else drawn[part.window.slices], part.shape)
        if pair.label is None:
            return label_of_boxes(pair.boxes, picture_size(pair.image), part)
        if part is not None:
            _check_sizes(pair.image, pair.label)
        labels = read_labels(pair.label, part, self.decode.colours)
        if self.halves:
            labels = labels[..., labels.shape[2] // 2 :]
        label = self.decode(labels, str(pair.label))
        if self.merge is not None:
            table = np.full(256, IGNORE, np.uint8)
            table[list(self.merge)] = list(self.merge.values())
            label = table[label]
        return label


def _check_sizes(image: Path, label: Path) -> None:
    """Resampling would make equal what is not."""
    sizes = [picture_size(path) for path in (image, label)]
    if sizes[0] != sizes[1]:
        shown = [f"{cols}x{rows}" for rows, cols in sizes]
        raise InputError(f"{image}: {shown[0]} pixels, but its label has {shown[1]}")
