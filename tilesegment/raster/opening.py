"""Opening files with GDAL: whatever path or URI, what lies beside it, and what a user adds to it."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from rasterio._path import _parse_path, _vsi_path
from rasterio.enums import ColorInterp
from rasterio.env import getenv, hasenv
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from tilesegment.errors import InputError
from tilesegment.raster.upright import upright

# Bytes at the end of a file that its last part is looked for in.
_TAIL = 4096
_LISTING = "GDAL_DISABLE_READDIR_ON_OPEN"
_NETWORK = tuple(
    f"/vsi{name}/"
    for name in ("curl", "s3", "gs", "az", "adls", "oss", "swift", "hdfs", "webhdfs")
    for name in (name, f"{name}_streaming")
)

# What both say is known here, and told by notes of our own: that pictures have no georeference, and that
# alpha and nodata stand beside each other (both are read, each by itself).
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=NodataShadowWarning)


@dataclass(frozen=True)
class Additions:
    """What a scene is opened with besides its own. nodata: one more value of invalid pixels; crs: instead
    of its own; colours: those of a palette, and not its numbers."""

    nodata: float | None = None
    crs: str | None = None
    colours: bool = True


def gdal_path(path: str) -> str:
    """A path as GDAL names it: `file:`, `zip:`, `s3:`, `https:` and other URIs in its own words."""
    packed = re.fullmatch(r"(zip|tar|gzip)(?:\+file)?:(?://)?([^!]+)(?:!/?(.*))?", path)
    if packed is not None:
        return f"/vsi{packed[1]}/{packed[2]}" + (f"/{packed[3]}" if packed[3] else "")
    name = str(_vsi_path(_parse_path(path)))
    if path.startswith("file:") and not os.path.exists(name) and os.path.exists(unquote(name)):
        return unquote(name)
    return name


def refuse_cut_short(path: str, dataset: Any) -> None:
    """Raises InputError for a PNG without an end: GDAL reads missing rows as black, and says nothing."""
    if dataset.driver != "PNG" or not is_local_file(path):
        return
    with open(gdal_path(path), "rb") as file:
        file.seek(max(0, os.path.getsize(file.name) - _TAIL))
        if b"IEND" not in file.read():
            raise InputError(f"{path}: damaged, the file ends before the picture does")


def is_remote(path: str) -> bool:
    """Whether a path lies beyond a network."""
    name = gdal_path(path)
    return any(place in name for place in _NETWORK)


def is_local_file(path: str) -> bool:
    """Whether a path is that of a plain file on this machine's disks."""
    return os.path.isfile(gdal_path(path))


def open_file(path: str, remote: bool | None = None) -> Any:
    """Open with what lies beside it (world files, `.aux.xml`, `.msk`, `.ovr`, headers); over a network
    nobody asks for a listing of the folder, unless the user says otherwise."""
    far = is_remote(path) if remote is None else remote
    if path.startswith(("file:", "zip", "tar:", "tar+", "gzip")) and not os.path.exists(path):
        path = gdal_path(path)
    if not far or _LISTING in os.environ or (hasenv() and _LISTING in getenv()):
        return rasterio.open(path)
    with rasterio.Env(**{_LISTING: "EMPTY_DIR"}):
        return rasterio.open(path)


@contextmanager
def opened(path: str, additions: Additions) -> Iterator[tuple[Any, list[Any]]]:
    """The dataset to read, and the datasets whose masks count. Raises InputError."""
    try:
        original = open_file(path)
    except (RasterioError, UnicodeError, OSError) as error:
        raise InputError(_cannot_open(path, error)) from error
    handles = [original]
    try:
        refuse_cut_short(path, original)
        if original.count == 0:
            inside = len(original.subdatasets)
            advice = f"; name one of its {inside} sub-datasets" if inside else ""
            raise InputError(f"{path}: no bands to read{advice}")
        dataset = original
        # GDAL knows one value a band: a declared one stays its own, and the other is looked for here.
        undeclared = all(value is None for value in original.nodatavals)
        nodata = additions.nodata if undeclared else None
        coloured = additions.colours and original.colorinterp[0] == ColorInterp.palette
        if nodata is not None or coloured or additions.crs is not None:
            dataset = open_file(_virtual(original, nodata, coloured, additions.crs), is_remote(path))
            handles.append(dataset)
        points, points_crs = dataset.gcps
        if points and dataset.crs is None and dataset.transform.is_identity:
            dataset = WarpedVRT(dataset, src_crs=points_crs, crs=points_crs, add_alpha=True)
            handles.append(dataset)
        if isinstance(dataset, WarpedVRT):
            yield dataset, [dataset]
        else:
            yield upright(dataset), [upright(original)]
    except RasterioError as error:
        raise InputError(_cannot_open(path, error)) from error
    finally:
        for handle in reversed(handles):
            handle.close()


def _virtual(dataset: Any, nodata: float | None, coloured: bool, crs: str | None) -> str:
    """An open file as a virtual one (GDAL's VRT, as text) with changes. A path of the kind `vrt://NAME?...`
    would not do: names and signed URLs may hold a question mark themselves."""
    with tempfile.TemporaryDirectory(prefix="tilesegment-") as folder:
        path = Path(folder) / "scene.vrt"
        rasterio.shutil.copy(dataset, path, driver="VRT")
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - GDAL's own words
    if crs is not None:
        for element in root.findall("SRS"):
            root.remove(element)
        ElementTree.SubElement(root, "SRS").text = crs
        points = root.find("GCPList")
        if points is not None:
            points.set("Projection", crs)
    if coloured:
        _expand(root)
    if nodata is not None:
        for element in root.findall("MaskBand"):
            root.remove(element)
        for band in root.findall("VRTRasterBand"):
            ElementTree.SubElement(band, "NoDataValue").text = f"{nodata:.17g}"
    return ElementTree.tostring(root, encoding="unicode")


def _expand(root: ElementTree.Element) -> None:
    """Three bands of colours instead of one of a palette's numbers."""
    (first, *others) = root.findall("VRTRasterBand")
    for band in others:
        root.remove(band)
    for element in [*first.findall("ColorInterp"), *first.findall("ColorTable")]:
        first.remove(element)
    text = ElementTree.tostring(first)
    root.remove(first)
    for number, name in enumerate(("Red", "Green", "Blue"), start=1):
        band = ElementTree.fromstring(text)  # noqa: S314 - from above
        band.set("band", str(number))
        ElementTree.SubElement(band, "ColorInterp").text = name
        for source in [*band.findall("SimpleSource"), *band.findall("ComplexSource")]:
            source.tag = "ComplexSource"
            ElementTree.SubElement(source, "ColorTableComponent").text = str(number)
        root.append(band)


def _cannot_open(path: str, error: Exception) -> str:
    name = gdal_path(path)
    if not name.startswith("/vsi") and ":" not in name[2:]:
        if not os.path.exists(name):
            return f"{path}: no such file"
        if os.path.isfile(name) and os.path.getsize(name) == 0:
            return f"{path}: the file is empty (0 bytes)"
    return f"{path}: not a raster that GDAL can open ({first_line(error)})"


def first_line(error: Exception) -> str:
    """The first line of what GDAL says."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
