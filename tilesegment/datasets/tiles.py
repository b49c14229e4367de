"""Rooftop tiles: small aerial pictures with a mask each, as folders of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilesegment.datasets.buildings import Box, read_boxes
from tilesegment.datasets.crops import CropReader, instances_of, open_crops
from tilesegment.datasets.labels import Roofs, Threshold
from tilesegment.datasets.pairs import Decoder, Pair, PairReader, first_folder, paired, pictures_in
from tilesegment.datasets.split import split
from tilesegment.errors import InputError, SettingsError
from tilesegment.model.card import ModelClass
from tilesegment.raster.picture import metres_of

CLASSES = (ModelClass("background", (0, 0, 0)), ModelClass("roof", (230, 60, 40)))
# Pairs of folders, most special first: the nested layout has NAME.tif with NAME_label.tif.
_FOLDERS = (
    ("images/images", ("label/label", "labels/labels")),
    ("images", ("labels", "masks", "label", "mask")),
)
_JPEG = (".jpg", ".jpeg")
_NO_SIZE = (
    "the size of a pixel is not asked for: the model will read every scene as it is; give data.gsd=0.15 "
    "(metres a pixel), and data.metres where pictures have no georeference"
)


def _given(metres: Mapping[str, float] | float | None, place: str) -> float | None:
    """The pixel size that is given for a place. Raises SettingsError where it is none."""
    found = metres.get(place) if isinstance(metres, Mapping) else metres
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
        raise SettingsError(f"data.metres {metres!r}: give metres a pixel (0.15), or these by place")
    return float(found)


def open_tiles(
    root: Path,
    *,
    split_by: Mapping[str, Any],
    seed: int = 0,
    places: Sequence[str] | None = None,
    gsd: float | None = None,
    metres: Mapping[str, float] | float | None = None,
    crops: int | None = None,
    weights: Mapping[str, float] | None = None,
    empty_share: float = 0.0,
    pixel_sizes: Sequence[float] | None = None,
    paste: float = 0.0,
    recolour: float = 0.0,
    drawn: float = 0.0,
    instances: Mapping[str, str] | None = None,
    size: tuple[int, int] = (512, 512),
) -> PairReader | CropReader:
    """`root/images/images` + `root/label/label`, or `images` + `labels` or `masks`, in root itself or in
    one folder a place. Labels are 0/255 or 0/1, or black and one other colour; instead of them a place may
    have a `boxes.json` with the [x, y, width, height] of every building by picture.

    places: only these folders. gsd: metres a pixel to resample to; metres: the pixel size of files that
    have no georeference, of all or by place.
    crops: train on so many random crops an epoch, and not on whole pictures; weights, empty_share,
    pixel_sizes, paste, recolour, drawn: of these, see `datasets.crops`. instances: by place `mask` where
    each building is a region of its own in the masks, or a vector file of the buildings. Raises InputError,
    SettingsError.
    """
    pairs = []
    for folder in _folders(root, places):
        place = "" if folder == root else folder.name
        found = _pairs_of(folder, place)
        if gsd is not None:
            found = [_measured(pair, _given(metres, place)) for pair in found]
        pairs += found
    parts = split([p.name for p in pairs], [p.place for p in pairs], split_by, seed, str(root))
    jpeg = {pair.label.suffix.lower() in _JPEG for pair in pairs if pair.label is not None}
    if len(jpeg) > 1:
        raise InputError(f"{root}: some labels are JPEG files and some are not; convert the JPEG ones")
    decode: Decoder = Threshold() if True in jpeg else Roofs()
    known = {place: instances_of(root, instances or {}, place) for place in {p.place for p in pairs}}
    pairs = [replace(pair, instances=known[pair.place]) for pair in pairs]
    reader = PairReader(
        CLASSES,
        {name: tuple(pairs[k] for k in indices) for name, indices in parts.items()},
        decode,
        gsd=gsd,
        notes=() if gsd is not None else (_NO_SIZE,),
    )
    if crops is None:
        for key, value in (
            ("weights", weights),
            ("empty_share", empty_share),
            ("pixel_sizes", pixel_sizes),
            ("paste", paste),
            ("recolour", recolour),
            ("drawn", drawn),
        ):
            if value:
                raise SettingsError(f"data.{key} is for data.crops, which is not given")
        return reader
    return open_crops(
        reader,
        size,
        crops=crops,
        weights=weights,
        empty_share=empty_share,
        pixel_sizes=pixel_sizes,
        paste=paste,
        recolour=recolour,
        drawn=drawn,
    )


def _folders(root: Path, places: Sequence[str] | None) -> list[Path]:
    if places is not None:
        for place in places:
            if not (root / place).is_dir():
                raise InputError(f"{root / place}: no such folder")
        return [root / place for place in places]
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the data set with --data")
    if (root / "images").is_dir():
        return [root]
    found = sorted(path for path in root.iterdir() if (path / "images").is_dir())
    if not found:
        raise InputError(f"{root}: holds neither images/ nor folders with images/ in them")
    return found


def _pairs_of(folder: Path, place: str) -> list[Pair]:
    prefix = f"{place}/" if place else ""
    boxed = folder / "boxes.json"
    if boxed.is_file():
        return _boxed(folder / "images", read_boxes(boxed), boxed, place, prefix)
    for images, candidates in _FOLDERS:
        labels = first_folder(folder, candidates)
        if (folder / images).is_dir() and labels is not None:
            return paired(folder / images, labels, place, prefix)
    raise InputError(f"{folder}: has images/ but no labels/ or masks/ beside it")


def _boxed(
    images: Path, boxes: Mapping[str, tuple[Box, ...]], where: Path, place: str, prefix: str
) -> list[Pair]:
    found = []
    for image in pictures_in(images):
        if image.stem not in boxes:
            raise InputError(
                f"{image}: {where.name} says nothing of it; an empty list says that it is empty"
            )
        found.append(Pair(prefix + image.stem, image, None, place, boxes=boxes[image.stem]))
    return found


def _measured(pair: Pair, given: float | None) -> Pair:
    # Of some tiles only the label kept its georeference.
    metres = given or metres_of(pair.image) or (pair.label and metres_of(pair.label))
    if not metres:
        raise InputError(
            f"{pair.image}: has no georeference, so data.gsd cannot be met; give data.metres for its place "
            f"{pair.place!r}"
        )
    return replace(pair, metres=metres)
