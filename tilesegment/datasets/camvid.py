"""CamVid: the common 480x360 files with 11 classes, and the RGB version with 32."""

from __future__ import annotations

from pathlib import Path

from tilesegment.datasets.labels import Colours, Indices
from tilesegment.datasets.pairs import Pair, PairReader, paired
from tilesegment.datasets.sample import IGNORE, SPLITS
from tilesegment.datasets.tables import CAMVID_11, CAMVID_32
from tilesegment.errors import InputError, SettingsError
from tilesegment.model.card import ModelClass


def open_camvid(root: Path, *, classes: int = 11) -> PairReader:
    """`train`, `val`, `test` with `trainannot`, `valannot`, `testannot` (indices 0..10, 11 is void), or
    with `train_labels`, ... (colours of 32 classes, mapped to the 11 or kept). Raises InputError,
    SettingsError.
    """
    if classes not in (11, 32):
        raise SettingsError(f"data.classes {classes}: CamVid has 11 or 32 classes")
    annotated = (root / "trainannot").is_dir()
    if not annotated and not (root / "train_labels").is_dir():
        raise InputError(f"{root}: no CamVid: train/ with trainannot/ or train_labels/ is expected in it")
    if annotated and classes == 32:
        raise SettingsError("data.classes 32: these files have 11 classes")
    ending = "annot" if annotated else "_labels"
    splits: dict[str, tuple[Pair, ...]] = {
        name: tuple(paired(root / name, root / f"{name}{ending}"))
        for name in SPLITS
        if (root / name).is_dir()
    }
    if annotated:
        return PairReader(CAMVID_11, splits, Indices.of({**{k: k for k in range(11)}, 11: IGNORE}))
    if classes == 32:
        kept = [(name, colour) for name, colour, index in CAMVID_32 if index is not None]
        table = tuple((*colour, k) for k, (_, colour) in enumerate(kept))
        entries = tuple(ModelClass(name, colour) for name, colour in kept)
    else:
        table = tuple((*colour, index) for _, colour, index in CAMVID_32 if index is not None)
        entries = CAMVID_11
    return PairReader(entries, splits, Colours((*table, (0, 0, 0, IGNORE))))
