"""What the functions take and give, by name and type."""

# Not `from __future__ import annotations`: as words, which keys may be missing is not known at run time.
import os
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from tilesegment.settings import Measure

# Metres or square metres, or with `px` pixels: 2.5, "2.5m2", "20px".
Size = Measure | float | str
Pairs = Mapping[str, str] | Sequence[tuple[str, str]]


class VectorOptions(TypedDict, total=False):
    """How polygons are made; see `tilesegment.settings.VectorSettings`."""

    min_area: Size
    simplify: Size
    fill_holes: Size
    connectivity: int
    regularize: str
    tolerance: Size
    keep_raw: bool
    layer: str | None
    dst_crs: str | None


class PredictOptions(VectorOptions, total=False):
    """What `predict` can be told; see `tilesegment.settings.PredictSettings`."""

    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    tta: str
    tile: int | str | tuple[int, int] | None
    overlap: int | None
    blend: str
    batch: int | None
    threshold: float | None
    gsd: float | None
    bidx: Sequence[int] | None
    nodata: float | None
    src_crs: str | None
    stretch: str | None
    bbox: Sequence[float] | None
    aoi: str | os.PathLike[str] | None
    split: str
    match_input: bool
    engine: str
    device: str
    precision: str
    compile: bool
    workers: int | None
    scheduler: str | None
    max_memory: int | str | None
    co: Pairs
    cog: bool
    lco: Pairs
    gdal: Pairs
    overwrite: bool
    resume: bool


class VectorizeOptions(VectorOptions, total=False):
    """What `vectorize` can be told; see `tilesegment.settings.VectorizeSettings`."""

    nodata: float | None
    src_crs: str | None
    lco: Pairs
    gdal: Pairs
    overwrite: bool


class GridPlan(TypedDict):
    """The working grid. region: rows and columns that are predicted; corners: of it, in the CRS, clockwise
    from the first pixel; resampled: whether it is another than the scene's own; metres_per_pixel: along
    rows and columns, None without a CRS."""

    height: int
    width: int
    crs: str | None
    region: list[int]
    corners: list[list[float]]
    resampled: bool
    metres_per_pixel: list[float] | None


class RunPlan(TypedDict):
    """What a run does. bands: that are read, from 1; range: low and high by band, and where they are from;
    tile: rows and columns; looks: forward passes of each tile; recompute: predicted pixels a pixel;
    memory_bytes: of a process, by part; disk_bytes: while it runs; seconds: said by `plan` alone."""

    input: str
    model: str
    grid: GridPlan
    bands: list[int]
    range: dict[str, Any]
    megapixels: float
    tile: list[int]
    overlap: int
    blocks: int
    tiles: int
    looks: int
    recompute: float
    memory_bytes: dict[str, int]
    disk_bytes: int
    warnings: list[str]
    seconds: NotRequired[dict[str, Any] | None]


class RunRecord(TypedDict):
    """What a run did, as it is written beside its main output.

    made_by: equal for runs that write the same; finished: when, in UTC; outputs: paths, the main one first;
    models: name, sha256 and credits of each; engine: with its precision; settings: as they were given;
    versions: of what decides a result; counts: blocks, tiles, valid pixels, and of polygons where there are
    any; drift: standard deviations between the scene's looks and the training pictures'; seconds: by stage,
    and `wall`; polygons: counts and areas by class, by area and by confidence."""

    made_by: str
    software: str
    finished: str
    outputs: list[str]
    plan: RunPlan
    models: list[dict[str, Any]]
    engine: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    counts: dict[str, int]
    drift: dict[str, float]
    seconds: dict[str, float]
    warnings: list[str]
    polygons: NotRequired[dict[str, Any]]
