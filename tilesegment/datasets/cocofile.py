"""COCO's annotation files as programs really write them: read into plain values, or refused by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tilesegment.errors import InputError


@dataclass(frozen=True)
class Annotation:
    """One instance. segmentation: as the file has it; area: in pixels, None where it is not said."""

    id: str
    category: int
    segmentation: Any
    area: float | None
    crowd: bool


@dataclass(frozen=True)
class Picture:
    """One picture. file: empty where it is not said; shape: (rows, columns), None where it is not said;
    annotations in the order of ids. fault: what is wrong with it or one of them, so that it cannot be
    used."""

    file: str
    shape: tuple[int, int] | None
    annotations: tuple[Annotation, ...]
    fault: str = ""


@dataclass(frozen=True)
class CocoFile:
    """An annotation file. categories: names by id, ascending; None where there are none."""

    path: str
    pictures: tuple[Picture, ...]
    categories: dict[int, str] | None
    notes: tuple[str, ...]


def read_coco(path: str, loaded: Any) -> CocoFile:
    """A file's JSON as plain values. Ids may be text where numbers are usual, and the other way round; what
    can be known from elsewhere (sizes, areas) may be missing.

    Raises InputError where the file cannot be understood, or an annotation has no picture. Everything else
    is a fault of one picture, so that whoever checks the data goes on to the next.
    """
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__} where COCO has an object with images")
    images, categories = _list(path, loaded, "images"), _categories(path, loaded)
    by_picture: dict[str, list[Annotation]] = {}
    faults: dict[str, str] = {}
    for number, entry in enumerate(_list(path, loaded, "annotations")):
        where = f"{path}: annotation {_id(entry, number)}"
        _require(entry, ("image_id",), where)
        key = _key(entry["image_id"])
        try:
            _require(entry, ("category_id",), where)
            annotation = _annotation(entry, number, where)
            if categories is not None and annotation.category not in categories:
                raise InputError(f"{where}: its category {annotation.category} is none of the file's")
            by_picture.setdefault(key, []).append(annotation)
        except InputError as error:
            faults.setdefault(key, str(error))
    pictures: list[tuple[str, Picture]] = []
    keys: set[str] = set()
    files: set[str] = set()
    for number, entry in enumerate(images):
        where = f"{path}: picture {_id(entry, number)}"
        key, picture = _picture(entry, number, where)
        fault = picture.fault or faults.get(key, "")
        if key in keys:
            fault = f"{where}: its id is in the file twice"
        elif picture.file in files:
            fault = f"{where}: its file {picture.file} is in the file twice"
        keys.add(key)
        files |= {picture.file} - {""}
        found = sorted(by_picture.pop(key, []), key=lambda annotation: _order(annotation.id))
        pictures.append((key, replace(picture, annotations=tuple(found), fault=fault)))
    notes = []
    if by_picture:
        orphans = sum(map(len, by_picture.values()))
        shown = next(iter(by_picture))
        notes.append(
            f"{path}: {orphans} annotations are of pictures that it does not list, such as {shown}"
        )
    pictures.sort(key=lambda entry: _order(entry[0]))
    return CocoFile(path, tuple(picture for _, picture in pictures), categories, tuple(notes))


def _picture(entry: Any, number: int, where: str) -> tuple[str, Picture]:
    """A picture without its annotations, and its id as it is compared."""
    key = _key(entry["id"]) if isinstance(entry, dict) and entry.get("id") is not None else f"#{number}"
    try:
        _require(entry, ("id", "file_name"), where)
        size = [entry.get("height"), entry.get("width")]
        shape = None if None in size else (_whole(size[0], where), _whole(size[1], where))
    except InputError as error:
        named = entry.get("file_name") if isinstance(entry, dict) else None
        return key, Picture(str(named or ""), None, (), str(error))
    return key, Picture(str(entry["file_name"]), shape, ())


def _categories(path: str, loaded: dict[str, Any]) -> dict[int, str] | None:
    found: dict[int, str] = {}
    for number, entry in enumerate(loaded.get("categories") or []):
        where = f"{path}: category {_id(entry, number)}"
        _require(entry, ("id", "name"), where)
        key, name = _whole(entry["id"], where), str(entry["name"])
        if found.setdefault(key, name) != name:
            raise InputError(f"{where}: is both {found[key]!r} and {name!r}")
    return dict(sorted(found.items())) or None


def _annotation(entry: dict[str, Any], number: int, where: str) -> Annotation:
    area = entry.get("area")
    if area is not None and not isinstance(area, int | float):
        raise InputError(f"{where}: its area {area!r} is no number")
    return Annotation(
        _id(entry, number),
        _whole(entry["category_id"], where),
        entry.get("segmentation"),
        area,
        _whole(entry.get("iscrowd") or 0, where) > 0,
    )


def _list(path: str, loaded: dict[str, Any], name: str) -> list[Any]:
    found = loaded.get(name)
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of {name}")
    return found


def _require(entry: Any, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if not isinstance(entry, dict) or entry.get(name) is None:
            raise InputError(f"{where}: has no {name}")


def _id(entry: Any, number: int) -> str:
    """How an entry is called in messages and sorted: its id, or its place in the list."""
    found = entry.get("id") if isinstance(entry, dict) else None
    return str(number if found is None else found)


def _key(value: Any) -> str:
    """An id as it is compared: 1, 1.0 and "1" are one."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _order(text: str) -> tuple[bool, int, str]:
    """Numbers as numbers, before other words."""
    return (not text.isdigit(), int(text) if text.isdigit() else 0, text)


def _whole(value: Any, where: str) -> int:
    try:
        number = int(value)
        if number != float(value) or number < 0:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {value!r} is no whole number") from error
    return number
