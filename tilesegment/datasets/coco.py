"""COCO 2017: masks drawn from its instance annotations."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.datasets.tables import COCO
from tilesegment.errors import InputError, SettingsError
from tilesegment.model.card import ModelClass, default_colours
from tilesegment.raster.picture import read_colour
from tilesegment.settings import nearest

# COCO publishes no test annotations: its validation pictures stand for both.
_YEAR = "2017"
_FILES = {"train": "train", "val": "val", "test": "val"}


@dataclass(frozen=True)
class CocoReader:
    """The `Reader` of COCO's instances.

    numbers: COCO's category ids and the class index of each. Instances are drawn from the largest to the
    smallest, equal ones by id, so that a small thing in front of a large one is seen; crowds, drawn last,
    are ignored wherever no instance of a wanted category was drawn.
    """

    root: Path
    classes: tuple[ModelClass, ...]
    numbers: tuple[tuple[int, int], ...]
    images: dict[str, tuple[int, ...]]
    gsd: float | None = None
    notes: tuple[str, ...] = field(default=())

    def names(self, split: str) -> Sequence[str]:
        """See `Reader`."""
        return [f"{number:012d}" for number in self.images.get(split, ())]

    def read(self, split: str, index: int, rng: np.random.Generator | None = None) -> Sample:
        """See `Reader`."""
        part = f"{_FILES[split]}{_YEAR}"
        coco = _annotations(str(self.root / "annotations" / f"instances_{part}.json"))
        entry = coco.imgs[self.images[split][index]]
        picture = read_colour(self.root / part / entry["file_name"])
        shape = picture.valid.shape
        if shape != (entry["height"], entry["width"]):
            raise InputError(
                f"{entry['file_name']}: {shape[1]}x{shape[0]} pixels, but its annotations are for "
                f"{entry['width']}x{entry['height']}"
            )
        label = self._drawn(coco, entry["id"], shape)
        return Sample(picture.values, np.where(picture.valid, label, np.uint8(IGNORE)), picture.valid)

    def _drawn(self, coco: Any, image: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        indices = dict(self.numbers)
        found = [a for a in coco.imgToAnns.get(image, []) if a["category_id"] in indices]
        label = np.zeros(shape, np.uint8)
        crowd = np.zeros(shape, np.bool_)
        for annotation in sorted(found, key=lambda a: (-a["area"], a["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            if annotation.get("iscrowd"):
                crowd |= mask
            else:
                label[mask] = indices[annotation["category_id"]]
        label[crowd & (label == 0)] = IGNORE
        return label


def open_coco(root: Path, *, foreground: Sequence[str] | None = None) -> CocoReader:
    """`annotations/instances_{train,val}2017.json` with `train2017/` and `val2017/`.

    foreground: categories that become class 1 of two; without it all 80 are classes after the background.
    Pictures without an annotation take part as background. Raises InputError, SettingsError.
    """
    names = {name: number for number, name in COCO.items()}
    if foreground is None:
        numbers = {number: index for index, number in enumerate(COCO, start=1)}
        labels = ["background", *COCO.values()]
    else:
        for name in foreground:
            if name not in names:
                raise SettingsError(
                    f"data.foreground: {name!r} is no category of COCO{nearest(name, names)}"
                )
        numbers = {names[name]: 1 for name in foreground}
        labels = ["background", "foreground"]
    classes = tuple(map(ModelClass, labels, default_colours(len(labels))))
    images = {}
    for split, part in _FILES.items():
        path = root / "annotations" / f"instances_{part}{_YEAR}.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; COCO's annotations are expected there")
        images[split] = tuple(sorted(_annotations(str(path)).imgs))
    return CocoReader(root, classes, tuple(sorted(numbers.items())), images)


@lru_cache(maxsize=3)
def _annotations(path: str) -> Any:
    """Read once a process, and quietly: pycocotools prints."""
    from pycocotools import coco

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return coco.COCO(os.fspath(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no COCO annotations ({error!r})") from error
