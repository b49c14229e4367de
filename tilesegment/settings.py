"""Settings of the commands, and the one YAML loader.

Precedence: command line, then environment (`TILESEGMENT_*`), then the file of `--config`, then the
defaults here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tilesegment.errors import SettingsError


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def load_yaml(path: str | Path, known: Iterable[str]) -> dict[str, Any]:
    """A YAML mapping whose keys are all known, with `-` read as `_`.

    Raises SettingsError where the file is missing, is no mapping or has an unknown key.
    """
    known = list(known)
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"config {path}: not YAML ({' '.join(str(error).split())})") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"config {path}: holds a {type(loaded).__name__}, expected key: value lines")
    result = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise SettingsError(f"config {path}: unknown key {key!r}{nearest(name, known)}")
        result[name] = value
    return result


@dataclass(frozen=True)
class Measure:
    """A length or an area with its unit: metres (square metres), or pixels of the working grid."""

    value: float
    pixels: bool = False

    @classmethod
    def parse(cls, text: str) -> Measure:
        """`2.5`, `2.5m`, `2.5m2` or `3px`. Raises SettingsError for anything else."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(m2|m|px|px2|)\s*", str(text))
        if match is None:
            raise SettingsError(f"{text!r} is no measure; write metres (2.5) or pixels (3px)")
        return cls(float(match[1]), match[2].startswith("px"))

    def __str__(self) -> str:
        return f"{self.value:g}{'px' if self.pixels else ''}"


# As the model's card says; straight walls and right angles, also half right ones, or also circles.
REGULARIZE = ("auto", "none", "right", "right-diagonal", "circles")
TOLERANCES = {"fine": Measure(0.2), "default": Measure(0.35), "map": Measure(1.0)}


@dataclass(frozen=True)
class VectorSettings:
    """How polygons are made from a mask; a change of these never needs a new prediction.

    min_area, fill_holes: areas below which polygons and holes are dropped (m2 or px).
    simplify: how far an outline may move (m or px). connectivity: 4, or 8 to join at corners.
    regularize: one of REGULARIZE; tolerance: how far an outline may leave a straight wall (m or px);
    keep_raw: also write the outlines as they were before, as a layer of their own.
    """

    min_area: Measure = Measure(2.0)
    simplify: Measure = Measure(1.0, pixels=True)
    fill_holes: Measure = Measure(1.0)
    connectivity: int = 4
    regularize: str = "auto"
    tolerance: Measure = TOLERANCES["default"]
    keep_raw: bool = False
    layer: str | None = None
    dst_crs: str | None = None


# Kinds of files in a folder of outputs: polygons, or the mask alone.
FORMATS = ("gpkg", "parquet", "fgb", "geojson", "geojsonl", "shp", "coco.json", "tif", "png")

# By contact, where the model's card has it; never; at narrow places.
SPLIT = ("auto", "none", "depth")


@dataclass(frozen=True)
class PredictSettings:
    """Everything that `predict` can be told; None means: as the model's card says. model: of several the
    mean; tta: none, flips or d4, looks at each tile whose mean is taken; split: one of SPLIT, whether
    buildings that touch become polygons of their own."""

    model: tuple[str, ...] = ("roofs",)
    tta: str = "none"
    tile: tuple[int, int] | None = None
    overlap: int | None = None
    blend: str = "cosine"
    batch: int | None = None
    threshold: float | None = None
    gsd: float | None = None
    bidx: tuple[int, ...] | None = None
    nodata: float | None = None
    src_crs: str | None = None
    stretch: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    aoi: str | None = None
    match_input: bool = False
    vector: VectorSettings = VectorSettings()
    split: str = "auto"
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    scheduler: str | None = None
    max_memory: int | None = None
    co: tuple[tuple[str, str], ...] = ()
    lco: tuple[tuple[str, str], ...] = ()
    gdal: tuple[tuple[str, str], ...] = ()
    cog: bool = False
    overwrite: bool = False
    resume: bool = True


@dataclass(frozen=True)
class VectorizeSettings:
    """What `vectorize` can be told besides how polygons are made."""

    nodata: float | None = None
    src_crs: str | None = None
    lco: tuple[tuple[str, str], ...] = ()
    gdal: tuple[tuple[str, str], ...] = ()
    overwrite: bool = False


def parse_tolerance(value: Any) -> Measure:
    """`fine`, `default`, `map`, or a length. Raises SettingsError for anything else."""
    if isinstance(value, Measure):
        return value
    if str(value) in TOLERANCES:
        return TOLERANCES[str(value)]
    try:
        return Measure.parse(str(value))
    except SettingsError as error:
        raise SettingsError(
            f"{value!r} is none of {', '.join(TOLERANCES)}, and no length (0.5, 3px)"
        ) from error


def parse_bytes(text: str) -> int:
    """`2GB`, `1500MB`, `2GiB` or a plain number of bytes. Raises SettingsError for anything else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].upper() not in units:
        raise SettingsError(f"{text!r} is no amount of memory; write 2GB or 1500MB")
    return int(float(match[1]) * units[match[2].upper()])


def parse_tile(text: str) -> tuple[int, int]:
    """`512`, or `ROWSxCOLUMNS` (`512x1024`). Raises SettingsError for anything else."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*[xX]\s*(\d+))?\s*", str(text))
    if match is None:
        raise SettingsError(f"{text!r} is no tile size; write 512 or 512x1024 (rows x columns)")
    return int(match[1]), int(match[2] or match[1])
