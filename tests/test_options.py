"""Creation options are tried before anything is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tilesegment
from tests import layouts
from tilesegment.errors import SettingsError
from tilesegment.raster.sink import check_options


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("COMPRESS", "JPEG"), "JPEG|changes class numbers"),
        (("COMPRESS", "FOO"), "'FOO' is an unexpected value"),
        (("FOO", "1"), "does not support creation option FOO"),
        (("COMPRESS", "LERC"), None),
        (("COMPRESS", "LZW"), None),
    ],
)
def test_rasters(option: tuple[str, str], words: str | None, cog: bool) -> None:
    if words is None:
        check_options((option,), cog)
        return
    with pytest.raises(SettingsError, match=words) as caught:
        check_options((option,), cog)
    assert str(caught.value).startswith(f"--co {option[0]}={option[1]}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        (("NBITS", "1"),),
        (("NBITS", "4"),),
        (("COMPRESS", "LERC"), ("MAX_Z_ERROR", "2")),
        (("BLOCKXSIZE", "100"),),
    ],
)
def test_what_would_change_a_class_is_refused(options: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(SettingsError):
        check_options(options, False)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("a.gpkg", {"FOO": "1"}, "does not support layer creation option FOO"),
        ("a.gpkg", {"SPATIAL_INDEX": "PERHAPS"}, "'PERHAPS' is an unexpected value"),
        ("a.gpkg", {"SPATIAL_INDEX": "NO"}, None),
        ("a.parquet", {"FOO": "1"}, "unexpected keyword argument 'foo'"),
        ("a.parquet", {"COMPRESSION": "gzip"}, None),
        ("a.fgb", {"SPATIAL_INDEX": "NO"}, None),
    ],
)
def test_layers(tmp_path: Path, name: str, option: dict[str, str], words: str | None) -> None:
    mask = layouts.save_tif(tmp_path / "m.tif", np.ones((1, 20, 20), np.uint8), crs="EPSG:32651")
    if words is None:
        assert tilesegment.vectorize(mask, tmp_path / name, lco=option)["polygons"] == 1
        return
    with pytest.raises(SettingsError, match=words):
        tilesegment.vectorize(mask, tmp_path / name, lco=option)
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


def test_a_prediction_is_not_begun(tmp_path: Path) -> None:
    scene = layouts.save_tif(tmp_path / "s.tif", np.ones((3, 64, 64), np.uint8))
    with pytest.raises(SettingsError, match="changes class numbers"):
        tilesegment.predict(scene, tmp_path / "o.tif", co={"NBITS": "1"})
    with pytest.raises(SettingsError, match="does not support layer creation option"):
        tilesegment.predict(scene, tmp_path / "o.gpkg", lco={"FOO": "1"})
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]
