"""Pascal VOC 2012 in its VOCdevkit tree."""

from __future__ import annotations

from pathlib import Path

from tilesegment.datasets.download import fetch_archive
from tilesegment.datasets.labels import Indices
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
        raise InputError(f"{root}: no Pascal VOC: VOCdevkit/VOC2012 with ImageSets/ is expected in it")
    splits = {
        name: tuple(_pairs(base, chosen, masks))
        for name, chosen in (("train", "train"), ("val", "val"), ("test", "val"))
    }
    return PairReader(VOC, splits, Indices.of({**{k: k for k in range(len(VOC))}, 255: IGNORE}))


def _pairs(base: Path, name: str, masks: str) -> list[Pair]:
    path = base / "ImageSets" / "Segmentation" / f"{name}.txt"
    try:
        names = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    found = [(n, base / "JPEGImages" / f"{n}.jpg", base / masks / f"{n}.png") for n in names]
    for _, *files in found:
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: is named by {path.name}, and is not there")
    return [Pair(name, image, label) for name, image, label in found]
