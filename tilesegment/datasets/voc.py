"""Pascal VOC 2012 in its VOCdevkit tree."""

from __future__ import annotations

from pathlib import Path

from tilesegment.datasets.download import fetch_archive
from tilesegment.datasets.labels import Indices
from tilesegment.datasets.lists import composed, find_named, read_lines
from tilesegment.datasets.pairs import Pair, PairReader
from tilesegment.datasets.sample import IGNORE
from tilesegment.datasets.tables import VOC
from tilesegment.errors import InputError

_ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012")
ARCHIVE = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
_MASKS = "SegmentationClass"


def open_voc(root: Path, *, masks: str = _MASKS, download: bool = False, url: str = ARCHIVE) -> PairReader:
    """The lists of `ImageSets/Segmentation`, `JPEGImages/NAME.jpg` and `SegmentationClass/NAME.png`, whose
    palette indices are the classes and whose 255 is ignored.

    masks: folder of the masks, such as SegmentationClassAug. The masks of the test are not published, so
    val stands for it. download: fetch `url` (2 GB) where nothing is there yet.
    Raises InputError.
    """
    if download and not any((root / name / "ImageSets").is_dir() for name in _ROOTS):
        fetch_archive(url, _MD5 if url == ARCHIVE else None, root)
    base = next((root / name for name in _ROOTS if (root / name / "ImageSets").is_dir()), None)
    if base is None:
        raise InputError(
            f"{root}: no Pascal VOC: VOCdevkit/VOC2012 with ImageSets/ is expected in it; --download "
            "fetches it (2 GB)"
        )
    splits = {
        name: tuple(_pairs(base, chosen, masks))
        for name, chosen in (("train", "train"), ("val", "val"), ("test", "val"))
    }
    return PairReader(VOC, splits, Indices.of({**{k: k for k in range(len(VOC))}, 255: IGNORE}))


def _pairs(base: Path, name: str, masks: str) -> list[Pair]:
    path = base / "ImageSets" / "Segmentation" / f"{name}.txt"
    pictures, labels = _by_stem(base / "JPEGImages", ".jpg"), _by_stem(base / masks, ".png")
    pairs = []
    for line in read_lines(path):
        for image in find_named(line, pictures, path):
            name = composed(image.stem)
            if name not in labels:
                raise InputError(f"{base / masks / name}.png: is named by {path.name}, and is not there")
            pairs.append(Pair(image.stem, image, labels[name]))
    return pairs


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return {composed(path.stem): path for path in folder.iterdir() if path.suffix.lower() == suffix}
