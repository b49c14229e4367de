"""COCO 2017, and whatever else comes in its form: masks drawn from instance annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.cocofile import Annotation, CocoFile, Picture, read_coco
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

    numbers: category ids and the class index of each. Instances are drawn from the largest to the
    smallest, equal ones by id, so that a small thing in front of a large one is seen; crowds, drawn last,
    are ignored wherever no instance of a wanted category was drawn.
    """

    root: Path
    classes: tuple[ModelClass, ...]
    numbers: tuple[tuple[int, int], ...]
    pictures: dict[str, tuple[str, ...]]
    gsd: float | None = None
    notes: tuple[str, ...] = field(default=())

    def names(self, split: str) -> Sequence[str]:
        """See `Reader`."""
        return [
            PureWindowsPath(name or "unnamed").with_suffix("").as_posix()
            for name in self.pictures.get(split, ())
        ]

    def read(self, split: str, index: int, rng: np.random.Generator | None = None) -> Sample:
        """See `Reader`."""
        path = _annotations(self.root, split)
        entry = _load(str(path)).pictures[index]
        if entry.fault:
            raise InputError(f"{entry.fault} ({entry.file})" if entry.file else entry.fault)
        folder = self.root / f"{_FILES[split]}{_YEAR}"
        path_given = folder / entry.file
        # Exporters write paths of their own machines.
        picture = read_colour(
            path_given if path_given.is_file() else folder / PureWindowsPath(entry.file).name
        )
        height, width = picture.valid.shape
        if entry.shape not in (None, (height, width)):
            raise InputError(
                f"{entry.file}: {width}x{height} pixels, but its annotations are for "
                f"{entry.shape[1]}x{entry.shape[0]}"
            )
        label = self._drawn(entry, (height, width), str(path))
        return Sample(picture.values, np.where(picture.valid, label, np.uint8(IGNORE)), picture.valid)

    def _drawn(self, entry: Picture, shape: tuple[int, int], where: str) -> NDArray[np.uint8]:
        indices = dict(self.numbers)
        found = [a for a in entry.annotations if a.category in indices]
        masks = [_mask(a, shape, f"{where}: annotation {a.id} of {entry.file}") for a in found]
        areas = [mask.sum() if a.area is None else a.area for a, mask in zip(found, masks, strict=True)]
        label = np.zeros(shape, np.uint8)
        crowd = np.zeros(shape, np.bool_)
        # The file's own order is that of the ids.
        for k in sorted(range(len(found)), key=lambda k: (-areas[k], k)):
            if found[k].crowd:
                crowd |= masks[k]
            else:
                label[masks[k]] = indices[found[k].category]
        label[crowd & (label == 0)] = IGNORE
        return label


def open_coco(root: Path, *, foreground: Sequence[str] | None = None) -> CocoReader:
    """`annotations/instances_{train,val}2017.json` with `train2017/` and `val2017/`.

    The categories are the file's own; where it names none, or COCO's, they are COCO's 80. foreground:
    categories that become class 1 of two; without it all are classes after the background. Pictures without
    an annotation take part as background. Raises InputError, SettingsError.
    """
    files = {split: _load(str(_annotations(root, split))) for split in _FILES}
    categories = _categories(files["train"], files["val"])
    if foreground is None:
        numbers = {number: index for index, number in enumerate(categories, start=1)}
        labels = ["background", *categories.values()]
    else:
        names = {name: number for number, name in categories.items()}
        for name in foreground:
            if name not in names:
                own = "COCO" if categories == COCO else f"this data set ({', '.join(names)})"
                raise SettingsError(
                    f"data.foreground: {name!r} is no category of {own}{nearest(name, names)}"
                )
        numbers = {names[name]: 1 for name in foreground}
        labels = ["background", "foreground"]
    classes = tuple(map(ModelClass, labels, default_colours(len(labels))))
    pictures = {split: tuple(p.file for p in file.pictures) for split, file in files.items()}
    notes = tuple(dict.fromkeys(note for file in files.values() for note in file.notes))
    return CocoReader(root, classes, tuple(sorted(numbers.items())), pictures, notes=notes)


def _categories(train: CocoFile, val: CocoFile) -> dict[int, str]:
    """The names by id that both files agree on."""
    both = [file.categories for file in (train, val) if file.categories is not None]
    if not both or all(COCO.get(number) == name for found in both for number, name in found.items()):
        return COCO
    if both[0] != both[-1]:
        raise InputError(f"{train.path} and {val.path}: their categories are not the same")
    return both[0]


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{_FILES[split]}{_YEAR}.json"


@lru_cache(maxsize=3)
def _load(path: str) -> CocoFile:
    """Read once a process."""
    try:
        loaded = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; COCO's annotations are expected there") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no COCO annotations ({error})") from error
    return read_coco(path, loaded)


def _mask(annotation: Annotation, shape: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The pixels (rows, columns) of an annotation. Raises InputError where it cannot be drawn."""
    from pycocotools import mask

    drawn: Any = annotation.segmentation
    if not drawn:
        raise InputError(f"{where} has no outline (its segmentation is empty), and a box is no mask")
    try:
        if isinstance(drawn, dict):
            runs = {"size": list(drawn.get("size") or shape), "counts": drawn["counts"]}
            if tuple(runs["size"]) != shape:
                raise InputError(f"{where} is for {runs['size'][1]}x{runs['size'][0]} pixels")
            if isinstance(runs["counts"], list):
                if sum(runs["counts"]) != shape[0] * shape[1]:
                    raise InputError(
                        f"{where} counts {sum(runs['counts'])} pixels of {shape[0] * shape[1]}"
                    )
                runs = mask.frPyObjects(runs, *shape)
        else:
            rings = [[float(number) for number in ring] for ring in drawn]
            for ring in rings:
                if len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all():
                    raise InputError(f"{where} has an outline of {len(ring)} numbers, which is no polygon")
            runs = mask.merge(mask.frPyObjects(rings, *shape))
        return np.asarray(mask.decode(runs), np.bool_)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} cannot be drawn ({error!r})") from error
