"""Sheets: rasters that lie side by side on one grid of pixels, as one scene, which is a VRT of GDAL's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from tilesegment.errors import InputError
from tilesegment.raster.opening import first_line, gdal_path, is_local_file, open_file

# Pixels that a sheet may lie beside the grid of the first one.
_MOST_OFF = 0.05
# Of all pixels around the sheets, one in so many must be on one of them.
_MOST_EMPTY = 1000
_DTYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32",
    "int32": "Int32", "float32": "Float32", "float64": "Float64",
}  # fmt: skip


@dataclass(frozen=True)
class _Sheet:
    """alike: what all sheets must have in common, by name; masked: whether it has a mask of its own, which
    an alpha band is not."""

    path: str
    crs: Any
    transform: Affine
    height: int
    width: int
    alike: dict[str, Any]
    masked: bool


def sheets_as_vrt(paths: Sequence[str]) -> str:
    """The text of a VRT that shows rasters as one. Between them nothing is valid; where they overlap the
    last valid pixel counts. Reads no pixel.

    Raises InputError where one cannot be opened, or does not fit the others.
    """
    sheets = [_sheet(path) for path in paths]
    places = [_place(sheet, sheets[0]) for sheet in sheets]
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    bottom = max(row + sheet.height for (row, _), sheet in zip(places, sheets, strict=True))
    right = max(col + sheet.width for (_, col), sheet in zip(places, sheets, strict=True))
    first, far = sheets[0], max(zip(places, sheets, strict=True), key=lambda pair: _distance(pair[0]))[1]
    covered = sum(sheet.height * sheet.width for sheet in sheets)
    if covered * _MOST_EMPTY < (bottom - top) * (right - left):
        raise InputError(
            f"{far.path}: lies so far from {first.path} that the sheets cover less than 1/{_MOST_EMPTY} of "
            "what is between them; predict them as scenes of their own"
        )
    root = Element("VRTDataset", rasterXSize=str(right - left), rasterYSize=str(bottom - top))
    if first.crs is not None:
        SubElement(root, "SRS").text = first.crs.to_wkt()
    geotransform = (first.transform @ Affine.translation(left, top)).to_gdal()
    SubElement(root, "GeoTransform").text = ", ".join(repr(value) for value in geotransform)
    alike = first.alike
    nodata = alike["nodata value"]
    has_alpha = ColorInterp.alpha in alike["kinds of bands"]
    masked = nodata is None and not has_alpha
    for number, (dtype, colour) in enumerate(
        zip(alike["types of values"], alike["kinds of bands"], strict=True), start=1
    ):
        band = SubElement(root, "VRTRasterBand", dataType=_DTYPES[dtype], band=str(number))
        SubElement(band, "ColorInterp").text = colour.name.capitalize()
        if nodata is not None:
            SubElement(band, "NoDataValue").text = f"{nodata:.17g}"
        for sheet, place in zip(sheets, places, strict=True):
            inside = place[0] - top, place[1] - left
            if nodata is not None:
                source = _source(band, "ComplexSource", sheet, inside, str(number))
                SubElement(source, "NODATA").text = f"{nodata:.17g}"
            elif sheet.masked:
                source = _source(band, "ComplexSource", sheet, inside, str(number))
                SubElement(source, "UseMaskBand").text = "true"
            else:
                _source(band, "SimpleSource", sheet, inside, str(number))
    if masked:
        mask = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for sheet, place in zip(sheets, places, strict=True):
            inside = place[0] - top, place[1] - left
            source = _source(mask, "ComplexSource", sheet, inside, "mask,1")
            SubElement(source, "NODATA").text = "0"
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _sheet(path: str) -> _Sheet:
    try:
        dataset = open_file(path)
    except (RasterioError, UnicodeError, OSError) as error:
        raise InputError(f"{path}: not a raster that GDAL can open ({first_line(error)})") from error
    with dataset:
        if dataset.transform.is_identity:
            raise InputError(f"{path}: has no georeference, so nothing says where the sheet lies")
        if ColorInterp.palette in dataset.colorinterp or any(t not in _DTYPES for t in dataset.dtypes):
            raise InputError(f"{path}: sheets need plain bands; make them with gdal_translate -expand rgb")
        nodata = dataset.nodatavals[0]
        if any(not _is_same(value, nodata) for value in dataset.nodatavals):
            raise InputError(f"{path}: its bands have different nodata values")
        masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
        if ColorInterp.alpha in dataset.colorinterp and not masked:
            raise InputError(
                f"{path}: its alpha band is none that GDAL takes for a mask; make it the last of four "
                "bands of bytes"
            )
        if masked and nodata is not None:
            raise InputError(f"{path}: sheets have a nodata value or a mask of their own, and not both")
        alike = {
            "number of bands": dataset.count,
            "types of values": dataset.dtypes,
            "kinds of bands": dataset.colorinterp,
            "nodata value": nodata,
        }
        size = dataset.height, dataset.width
        return _Sheet(path, dataset.crs, dataset.transform, *size, alike, masked)


def _place(sheet: _Sheet, first: _Sheet) -> tuple[int, int]:
    """Row and column of a sheet's corner on the first one's grid."""
    if sheet.crs != first.crs:
        raise InputError(f"{sheet.path}: has another CRS than {first.path}; bring them to one by gdalwarp")
    for name, value in sheet.alike.items():
        if not _is_same(value, first.alike[name]):
            raise InputError(f"{sheet.path}: its {name} is not that of {first.path}: {value}")
    to_grid = ~first.transform @ sheet.transform
    corners = [to_grid @ corner for corner in ((0, 0), (sheet.width, 0), (0, sheet.height))]
    col, row = round(corners[0][0]), round(corners[0][1])
    expected = [(col, row), (col + sheet.width, row), (col, row + sheet.height)]
    off = max(
        abs(found - wanted)
        for pair in zip(corners, expected, strict=True)
        for found, wanted in zip(*pair, strict=True)
    )
    if off > _MOST_OFF:
        raise InputError(
            f"{sheet.path}: its pixels do not lie on the grid of {first.path} ({off:.2g} pixels off); "
            "bring them to one by gdalwarp -tap"
        )
    return row, col


def _is_same(one: Any, other: Any) -> bool:
    # nan is no number equal to itself.
    return bool(one == other or (one != one and other != other))


def _distance(place: tuple[int, int]) -> int:
    return max(abs(place[0]), abs(place[1]))


def _source(band: Element, kind: str, sheet: _Sheet, place: tuple[int, int], number: str) -> Element:
    source = SubElement(band, kind)
    name = gdal_path(sheet.path)
    if is_local_file(sheet.path):
        name = os.path.abspath(name)
    SubElement(source, "SourceFilename", relativeToVRT="0").text = name
    SubElement(source, "SourceBand").text = number
    for tag, (row, col) in (("SrcRect", (0, 0)), ("DstRect", place)):
        size = {"xSize": str(sheet.width), "ySize": str(sheet.height)}
        SubElement(source, tag, {"xOff": str(col), "yOff": str(row), **size})
    return source
