"""Folders of pictures with colour masks, in the layouts that such data sets are passed around in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilesegment.datasets.labels import (
    COLOUR_DISTANCE,
    Colours,
    merge_foreground,
    palette_of,
    shared_colours,
)
from tilesegment.datasets.lists import read_text
from tilesegment.datasets.pairs import Pair, PairReader, first_folder, paired, pictures_in
from tilesegment.datasets.sample import IGNORE, SPLITS
from tilesegment.datasets.split import split
from tilesegment.datasets.tables import CITYSCAPES, CITYSCAPES_30
from tilesegment.errors import InputError, SettingsError
from tilesegment.model.card import ModelClass

_IMAGES = ("images", "img", "image")
_LABELS = ("masks", "label", "labels", "mask")


def open_folders(
    root: Path,
    *,
    palette: str | Mapping[str, Sequence[int]] | None = None,
    distance: float = COLOUR_DISTANCE,
    ignore: Sequence[str] = (),
    foreground: Sequence[str] | None = None,
    split_by: Mapping[str, Any],
    seed: int = 0,
) -> PairReader:
    """`SPLIT/images` + `SPLIT/masks`, `SPLIT/img` + `SPLIT/label`, `SPLIT` + `SPLIT_labels`, or `SPLIT/`
    with pictures whose left half is the photograph and whose right half is the mask; without folders for
    splits, `images` + `masks` split by `split_by`.

    palette: a file (`class_dict.csv` with name, r, g, b, or JSON), `cityscapes30`, or names with colours;
    by default `class_dict.csv` in root. ignore: names of classes that are no class. foreground: names that
    become class 1 of two. Raises InputError, SettingsError.
    """
    classes = _palette(root, palette)
    kept = tuple(entry for entry in classes if entry.name not in set(ignore))
    unknown = set(ignore) - {entry.name for entry in classes}
    if unknown:
        raise SettingsError(f"data.ignore: {sorted(unknown)[0]!r} is no class of the palette")
    if palette == "cityscapes30":
        spare = {label.colour for label in CITYSCAPES} - {entry.colour for entry in kept}
    else:
        spare = {entry.colour for entry in classes} - {entry.colour for entry in kept}
    decode = palette_of(kept, distance)
    decode = Colours((*decode.palette, *((*colour, IGNORE) for colour in sorted(spare))), distance)
    splits, halves = split_folders(root, split_by, seed)
    notes = tuple(shared_colours(kept))
    merge, entries = None, kept
    if foreground is not None:
        merge = merge_foreground(kept, foreground)
        entries = (ModelClass("background", (0, 0, 0)), ModelClass("foreground", (230, 60, 40)))
    return PairReader(entries, splits, decode, merge, halves=halves, notes=notes)


def split_folders(
    root: Path, split_by: Mapping[str, Any], seed: int, ending: str = ""
) -> tuple[dict[str, tuple[Pair, ...]], bool]:
    """The pairs of each split in the layouts of `open_folders`, and whether pictures are halves. ending: of
    the stems of labels, where several kinds of them lie in one folder. Raises InputError."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the data set with --data")
    found: dict[str, tuple[Pair, ...]] = {}
    halves = False
    for name in SPLITS:
        folder = root / name
        if not folder.is_dir():
            continue
        images, labels = first_folder(folder, _IMAGES), first_folder(folder, _LABELS)
        beside = root / f"{name}_labels"
        if images is not None and labels is not None:
            found[name] = tuple(paired(images, labels, ending=ending))
        elif beside.is_dir():
            found[name] = tuple(paired(folder, beside))
        else:
            halves = True
            found[name] = tuple(Pair(path.stem, path, path) for path in pictures_in(folder))
    if found:
        return found, halves
    images, labels = first_folder(root, _IMAGES), first_folder(root, _LABELS)
    if images is None or labels is None:
        raise InputError(f"{root}: holds neither train/ and val/ nor images/ with masks/")
    pairs = paired(images, labels, ending=ending)
    parts = split([p.name for p in pairs], [""] * len(pairs), split_by, seed, str(root))
    return {name: tuple(pairs[k] for k in indices) for name, indices in parts.items()}, False


def _palette(root: Path, palette: str | Mapping[str, Sequence[int]] | None) -> tuple[ModelClass, ...]:
    if palette == "cityscapes30":
        return tuple(ModelClass(label.name, label.colour) for label in CITYSCAPES_30)
    if isinstance(palette, Mapping):
        return tuple(
            ModelClass(str(name), _colour(colour, "data.palette")) for name, colour in palette.items()
        )
    path = root / (palette or "class_dict.csv")
    if not path.is_file():
        raise InputError(f"{path}: no palette there; give one with data.palette")
    text = read_text(path)
    if path.suffix.lower() == ".json":
        return _from_json(text, path)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    # The first line may be headings.
    if rows and not all(cell.isdigit() for cell in rows[0][1:4]):
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) < 4:
            raise InputError(f"{path}: entry {number} ({','.join(row)}) is not name,r,g,b")
    entries = tuple(ModelClass(name, _colour(colour, str(path))) for name, *colour in rows)
    if not entries:
        raise InputError(f"{path}: names no class")
    return entries


def _from_json(text: str, path: Path) -> tuple[ModelClass, ...]:
    """`[{"name": ..., "color": [r, g, b]}, ...]`, or that list under `classes`, or `{name: [r, g, b]}`."""
    try:
        loaded = json.loads(text)
        if isinstance(loaded, dict) and "classes" not in loaded:
            return tuple(ModelClass(name, _colour(colour, str(path))) for name, colour in loaded.items())
        rows = loaded["classes"] if isinstance(loaded, dict) else loaded
        return tuple(
            ModelClass(str(row["name"]), _colour(row.get("color", row.get("colour")), str(path)))
            for row in rows
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no palette ({error!r})") from error


def _colour(values: Any, where: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(value) for value in list(values)[:3])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {values!r} is no colour; write three numbers 0 to 255") from error
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{where}: {values!r} is no colour; write three numbers 0 to 255")
    return red, green, blue
