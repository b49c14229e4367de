"""Cityscapes in the layout of its publishers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilesegment.datasets.folders import split_folders
from tilesegment.datasets.labels import Colours, Indices, merge_foreground, palette_of, shared_colours
from tilesegment.datasets.pairs import Decoder, Pair, PairReader, partners
from tilesegment.datasets.sample import IGNORE, SPLITS
from tilesegment.datasets.tables import CITYSCAPES, CITYSCAPES_19, CITYSCAPES_30, Label
from tilesegment.errors import InputError, SettingsError
from tilesegment.model.card import ModelClass
from tilesegment.raster.picture import is_coloured

_IMAGES = ("leftImg8bit", "images")
_KINDS = ("labelIds", "labelTrainIds", "color")
_BLACK = (0, 0, 0)


def open_cityscapes(
    root: Path,
    *,
    classes: int = 19,
    labels: str = "labelIds",
    foreground: Sequence[str] | None = None,
    split_by: Mapping[str, Any],
    seed: int = 0,
) -> PairReader:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` with `gtFine/SPLIT/CITY/*_gtFine_LABELS.png`, or any of
    the layouts in which it is passed around (see `datasets.folders`), whose masks may be of any kind.

    classes: 19 or 30. labels: labelIds, labelTrainIds (19 classes only) or color (RGBA; pixels take the
    nearest colour). split_by: shares of splits where there are no folders for them. foreground: class names
    that become class 1 of two. Raises InputError, SettingsError.
    """
    if classes not in (19, 30):
        raise SettingsError(f"data.classes {classes}: Cityscapes has 19 or 30 classes")
    if labels not in _KINDS:
        raise SettingsError(f"data.labels {labels!r}: use one of {', '.join(_KINDS)}")
    if labels == "labelTrainIds" and classes == 30:
        raise SettingsError("data.labels labelTrainIds has 19 classes; use labelIds or color for 30")
    table = CITYSCAPES_19 if classes == 19 else CITYSCAPES_30
    entries = tuple(ModelClass(label.name, label.colour) for label in table)
    images = next((root / name for name in _IMAGES if (root / name).is_dir()), None)
    halves = False
    if images is not None and (root / "gtFine").is_dir():
        splits = {name: tuple(_pairs(images / name, root / "gtFine" / name, labels)) for name in SPLITS}
    else:
        splits, halves, labels = _passed_around(root, labels, split_by, seed)
        if labels == "labelTrainIds" and classes == 30:
            raise InputError(f"{root}: its masks (labelTrainIds) have 19 classes, and data.classes is 30")
    notes: tuple[str, ...] = ()
    if labels == "color":
        black = [f"{e.name} is black, as all void is, and left out" for e in entries if e.colour == _BLACK]
        notes = *shared_colours(entries), *black
    merge = None
    if foreground is not None:
        merge = merge_foreground(entries, foreground)
        entries = (ModelClass("background", (0, 0, 0)), ModelClass("foreground", (230, 60, 40)))
    return PairReader(entries, splits, _decoder(table, labels), merge, halves=halves, notes=notes)


def _passed_around(
    root: Path, labels: str, split_by: Mapping[str, Any], seed: int
) -> tuple[dict[str, tuple[Pair, ...]], bool, str]:
    """Pairs by split, whether they are halves of a file, and the kind of labels that is there: masks of
    several bands, or with a palette, are colours whatever the configuration expects."""
    try:
        splits, halves = split_folders(root, split_by, seed, f"_gtFine_{labels}")
    except InputError as error:
        raise InputError(
            f"{root}: no Cityscapes: leftImg8bit/ and gtFine/, or train/ and val/ with pictures and masks, "
            f"are expected in it ({error})"
        ) from error
    first = next(
        (pair.label for pairs in splits.values() for pair in pairs if pair.label is not None), None
    )
    if first is None or is_coloured(first):
        return splits, halves, "color"
    if labels == "color":
        trained = first.stem.endswith("labelTrainIds")
        labels = "labelTrainIds" if trained else "labelIds"
    return splits, halves, labels


def _pairs(images: Path, labels: Path, kind: str) -> list[Pair]:
    if not images.is_dir():
        return []
    found, no_label, _ = partners(
        sorted(images.glob("*/[!.]*.png")), sorted(labels.glob(f"*/[!.]*_gtFine_{kind}.png"))
    )
    if no_label:
        raise InputError(f"{no_label[0]}: no *_gtFine_{kind}.png in {labels}")
    return [Pair(stem, image, label, image.parent.name) for stem, image, label in found]


def _decoder(table: Sequence[Label], kind: str) -> Decoder:
    if kind == "color":
        entries = [ModelClass(label.name, label.colour) for label in table]
        # Black is static, and everything that has no class: it is left out.
        palette = [row for row in palette_of(entries).palette if row[:3] != _BLACK]
        # Colours of labels outside the table are no class, and must not be taken for a similar one.
        known = {entry.colour for entry in entries} - {_BLACK}
        others = {label.colour for label in CITYSCAPES if label.colour not in known}
        return Colours((*palette, *((*colour, IGNORE) for colour in sorted(others))))
    if kind == "labelTrainIds":
        return Indices.of({**{index: index for index in range(len(table))}, 255: IGNORE})
    numbers = {label.number: index for index, label in enumerate(table)}
    return Indices.of({label.number: numbers.get(label.number, IGNORE) for label in CITYSCAPES})
