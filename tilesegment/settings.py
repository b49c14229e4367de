"""Settings of the commands, and the one YAML loader.

Precedence: command line, then environment (`TILESEGMENT_*`), then the file of `--config`, then the
defaults here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
# Kinds of files in a folder of outputs: polygons, or the mask alone.
FORMATS = ("gpkg", "parquet", "fgb", "geojson", "geojsonl", "shp", "coco.json", "tif", "png")
# By contact, where the model's card has it; never; at narrow places.
SPLIT = ("auto", "none", "depth")
ENGINES = ("auto", "torch", "openvino", "onnx")
# One look at every tile; mirrored ones as well; also turned ones.
TTA = ("none", "flips", "d4")


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


def numbers(kind: Callable[[str], Any], count: int | None, example: str) -> Callable[[Any], Any]:
    """A parser of numbers between commas, `count` of them."""

    def parse(value: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        try:
            numbers = tuple(kind(str(part)) for part in parts)
        except ValueError:
            raise SettingsError(f"{value!r} is no list of numbers; write {example}") from None
        if count is not None and len(numbers) != count:
            raise SettingsError(f"{value!r} has {len(numbers)} numbers instead of {count}; write {example}")
        return numbers

    return parse


@dataclass(frozen=True)
class Option:
    """How a setting is given, declared once for commands, environment, configuration files and Python.

    parse: from text; choices: words that it may be; short: another flag; group: of options that come
    together; default: the default's name, where it has one."""

    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    choices: tuple[str, ...] = ()
    short: str | None = None
    group: str = ""
    default: str | None = None


@dataclass(frozen=True)
class VectorSettings:
    """How polygons are made from a mask; a change of these never needs a new prediction."""

    min_area: Annotated[
        Measure, Option("Drop polygons below this area (m2, or 20px).", metavar="AREA", parse=Measure.parse)
    ] = Measure(2.0)
    simplify: Annotated[
        Measure,
        Option(
            "How far outlines may move (m, or 1px; 0 keeps every pixel corner).",
            metavar="LENGTH",
            parse=Measure.parse,
        ),
    ] = Measure(1.0, pixels=True)
    fill_holes: Annotated[
        Measure, Option("Fill holes below this area (m2, or 20px).", metavar="AREA", parse=Measure.parse)
    ] = Measure(1.0)
    connectivity: Annotated[
        int, Option("8 makes one multipolygon of parts that touch at a corner.", choices=("4", "8"))
    ] = 4
    regularize: Annotated[
        str,
        Option(
            "Straight walls: at right angles, also half right ones, or also circles; auto: for buildings.",
            choices=REGULARIZE,
        ),
    ] = "auto"
    tolerance: Annotated[
        Measure,
        Option(
            "How ragged an outline a wall may stand for: fine, default, map, or a length (m, or 3px).",
            metavar="LENGTH",
            parse=parse_tolerance,
            default="default",
        ),
    ] = TOLERANCES["default"]
    keep_raw: Annotated[bool, Option("Also write outlines before --regularize, as layer NAME_raw.")] = False
    layer: Annotated[str | None, Option("Layer name; the file's stem by default.")] = None
    dst_crs: Annotated[str | None, Option("CRS of the polygons; the scene's by default.")] = None


@dataclass(frozen=True)
class PredictSettings:
    """Everything that `predict` can be told; None means: as the model's card says."""

    model: Annotated[
        tuple[str, ...],
        Option(
            "Bundled name, file or folder; of several (repeat it) the mean.", metavar="MODEL", group="scene"
        ),
    ] = ("roofs",)
    tta: Annotated[
        str,
        Option(
            "Mean of 4 (flips) or 8 (d4) looks at every tile, mirrored and turned.",
            choices=TTA,
            group="scene",
        ),
    ] = "none"
    tile: Annotated[
        tuple[int, int] | None,
        Option(
            "Tile: 512, or 512x1024 (rows x columns).", metavar="PIXELS", parse=parse_tile, group="scene"
        ),
    ] = None
    overlap: Annotated[int | None, Option("Pixels shared by neighbouring tiles.", group="scene")] = None
    blend: Annotated[str, Option("linear, cosine or gauss.", group="scene")] = "cosine"
    batch: Annotated[int | None, Option("Tiles a forward pass.", group="scene")] = None
    threshold: Annotated[
        float | None, Option("Least probability, for models of two classes.", group="scene")
    ] = None
    gsd: Annotated[
        float | None, Option("Metres a pixel to predict at; the model's by default.", group="scene")
    ] = None
    bidx: Annotated[
        tuple[int, ...] | None, Option("Bands, from 1: 1,2,3.", metavar="BANDS", short="-b", group="scene")
    ] = None
    nodata: Annotated[
        float | None, Option("Value of the input that marks invalid pixels too.", group="scene")
    ] = None
    src_crs: Annotated[
        str | None, Option("CRS of the input, where it names none or a wrong one.", group="scene")
    ] = None
    stretch: Annotated[str | None, Option("Value range: MIN,MAX or percentiles 2%,98%.", group="scene")] = (
        None
    )
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        Option("left,bottom,right,top in the scene's CRS.", metavar="BOX", group="scene"),
    ] = None
    aoi: Annotated[str | None, Option("Vector file: only inside its polygons.", group="scene")] = None
    split: Annotated[
        str,
        Option(
            "A polygon for each building, where the model says that they touch; depth: at narrow places.",
            choices=SPLIT,
            group="scene",
        ),
    ] = "auto"
    match_input: Annotated[bool, Option("Masks on the input's own grid.", group="scene")] = False
    vector: VectorSettings = VectorSettings()
    engine: Annotated[
        str, Option("auto: torch on a GPU, OpenVINO on a CPU.", choices=ENGINES, group="running")
    ] = "auto"
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 or mps.", group="running")] = "auto"
    precision: Annotated[str, Option("auto, fp32, bf16, fp16 or int8.", group="running")] = "auto"
    compile: Annotated[
        bool,
        Option("Compile the network first (torch.compile): a minute, then faster.", group="running"),
    ] = False
    workers: Annotated[int | None, Option("Start this many Dask worker processes.", group="running")] = None
    scheduler: Annotated[str | None, Option("Join a Dask scheduler: tcp://host:8786.", group="running")] = (
        None
    )
    max_memory: Annotated[
        int | None,
        Option(
            "Budget of each process, like 2GB; half of the machine's by default.",
            metavar="BYTES",
            parse=parse_bytes,
            group="running",
        ),
    ] = None
    co: Annotated[
        tuple[tuple[str, str], ...], Option("Raster creation option (repeatable).", group="raster")
    ] = ()
    cog: Annotated[bool, Option("Write masks as cloud-optimised GeoTIFFs.", group="raster")] = False
    lco: Annotated[tuple[tuple[str, str], ...], Option("Layer creation option (repeatable).")] = ()
    gdal: Annotated[tuple[tuple[str, str], ...], Option("GDAL configuration option (repeatable).")] = ()
    overwrite: Annotated[bool, Option("Replace outputs that exist.")] = False
    resume: Annotated[bool, Option("Go on with an interrupted run.")] = True


@dataclass(frozen=True)
class VectorizeSettings:
    """What `vectorize` can be told besides how polygons are made."""

    nodata: float | None = None
    src_crs: str | None = None
    lco: tuple[tuple[str, str], ...] = ()
    gdal: tuple[tuple[str, str], ...] = ()
    overwrite: bool = False


def options_of(kind: type) -> dict[str, Option]:
    """How the settings of a dataclass are given, by name."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Option):
                found[name] = extra
    return found
