"""From a configuration's words to a reader."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError, SettingsError
from tilesegment.settings import nearest

# Module and function of each reader: their own libraries are imported when they are used.
_READERS = {
    "rooftop-tiles": ("tiles", "open_tiles"),
    "rooftop-scenes": ("scenes", "open_scenes"),
    "cityscapes": ("cityscapes", "open_cityscapes"),
    "colour-folders": ("folders", "open_folders"),
    "voc": ("voc", "open_voc"),
    "coco": ("coco", "open_coco"),
    "camvid": ("camvid", "open_camvid"),
}


def reader_names() -> list[str]:
    """What `data.reader` and `check --as` take."""
    return list(_READERS)


def open_reader(
    name: str, root: Path, options: Mapping[str, Any], size: tuple[int, int] = (512, 512), seed: int = 0
) -> Reader:
    """The data set below `root`. options: the reader's own, see its module; size: (rows, columns) wanted.

    Raises SettingsError for an unknown reader or option, InputError where the files are not as expected.
    """
    if name not in _READERS:
        raise SettingsError(f"no reader is called {name!r}{nearest(name, _READERS)}")
    if not root.is_dir() and not options.get("download"):
        raise InputError(f"{root}: no such folder; give the data set with --data")
    module, function = _READERS[name]
    open_one = getattr(importlib.import_module(f"tilesegment.datasets.{module}"), function)
    known = [key for key in inspect.signature(open_one).parameters if key != "root"]
    given = {"split_by" if key == "split" else key: value for key, value in options.items()}
    for key in given:
        if key not in known or key in ("size", "seed"):
            shown = ["split" if k == "split_by" else k for k in known if k not in ("size", "seed")]
            raise SettingsError(f"data: the reader {name} has no option {key!r}{nearest(key, shown)}")
    gsd = given.get("gsd")
    if gsd is not None and not (isinstance(gsd, int | float) and gsd > 0):
        raise SettingsError(f"data.gsd {gsd!r} is no size of a pixel in metres")
    given |= {key: value for key, value in (("size", size), ("seed", seed)) if key in known}
    if "split_by" in known and "split_by" not in given:
        given["split_by"] = {"train": 0.9, "val": 0.05, "test": 0.05}
    try:
        reader: Reader = open_one(root, **given)
    except TypeError as error:
        raise SettingsError(f"data: {error}") from error
    return reader
