"""Creation options are tried before anything is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

import tilesegment
from tests import layouts
from tilesegment.cli.main import main
from tilesegment.errors import InputError, SettingsError
from tilesegment.raster.sink import check_options
from tilesegment.settings import numbers


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
        ("a.shp", {"ENCODING": "klingon"}, "lco ENCODING=klingon: no such encoding"),
        ("a.shp", {"encoding": "ISO-8859-1"}, None),
        ("a.shp", {"ENCODING": "LDID/87"}, None),
        ("a.shp", {"DBF_DATE_LAST_UPDATE": "foo"}, "lco DBF_DATE_LAST_UPDATE=foo: no date as 2026-01-31"),
        ("a.shp", {"DBF_DATE_LAST_UPDATE": "2026-11-25"}, None),
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


class TestWhatIsNoMask:
    def test_pictures_are_refused(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for name, values, words in (
            ("rgb", rng.integers(0, 3, (3, 40, 40)), "has 3 bands, as pictures have"),
            (
                "grey",
                rng.integers(0, 255, (1, 200, 200)),
                r"holds 2\d\d values in the middle, 100% of them",
            ),
            ("deep", rng.integers(0, 5000, (1, 200, 200)), "this is a picture and no raster of classes"),
        ):
            dtype = np.uint16 if name == "deep" else np.uint8
            path = layouts.save_tif(tmp_path / f"{name}.tif", values.astype(dtype), crs="EPSG:32651")
            with pytest.raises(InputError, match=words):
                tilesegment.vectorize(path, tmp_path / "o.gpkg")
            assert not (tmp_path / "o.gpkg").exists()

    def test_masks_with_alpha_and_many_instances_are_traced(self, tmp_path: Path) -> None:
        instances = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((10, 10))).astype(np.uint16)
        path = layouts.save_tif(tmp_path / "i.tif", instances[None], crs="EPSG:32651")
        assert tilesegment.vectorize(path, tmp_path / "i.gpkg", min_area=0)["polygons"] == 400
        both = np.stack([np.ones((20, 20)), np.full((20, 20), 255)]).astype(np.uint8)
        with rasterio.open(layouts.save_tif(tmp_path / "a.tif", both, crs="EPSG:32651"), "r+") as dataset:
            dataset.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
        assert tilesegment.vectorize(tmp_path / "a.tif", tmp_path / "a.gpkg", min_area=0)["polygons"] == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TILESEGMENT_MIN_AERA", "which no command reads; did you mean 'TILESEGMENT_MIN_AREA'"),
        ("TILESEGMENT_MIN_AREA", None),
        ("TILESEGMENT_CACHE", None),
    ],
)
def test_a_mistyped_variable_does_not_pass(monkeypatch, capsys, name: str, words: str | None) -> None:
    monkeypatch.setenv(name, "3")
    with pytest.raises(SystemExit) as caught:
        main(["vectorize", "--help"])
    assert caught.value.code == (0 if words is None else 2)
    assert words is None or words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crs", "EPSG:4326"), ("crs", ""), ("nodata", "5"), ("dtype", "uint16"), ("sharing", "1"),
        ("PROFILE", "BASELINE"), ("count", "2"), ("transform", "1"), ("mode", "r"), ("driver", "PNG"),
        ("width", "5"), ("NBITS", "4"),
    ],
)  # fmt: skip
def test_what_is_no_creation_option_or_loses_something(name: str, value: str) -> None:
    from tilesegment.raster.sink import check_options

    with pytest.raises(SettingsError, match=f"--co {name}"):
        check_options(((name, value),), False)


@pytest.mark.parametrize(
    ("name", "value"), [("compression", "lzma"), ("version", "9"), ("compression_level", "99")]
)
def test_parquet(tmp_path, make_raster, name: str, value: str) -> None:
    import numpy as np

    import tilesegment

    path = make_raster(np.ones((9, 9), np.uint8))
    with pytest.raises(SettingsError, match="lco"):
        tilesegment.vectorize(path, tmp_path / "r.parquet", lco={name: value})
    assert list(tmp_path.glob("r.*")) == []


def test_numbers_between_commas() -> None:
    parse = numbers(float, 4, "1,2,3,4")
    assert parse("1,2,3.5,4") == parse([1, 2, 3.5, 4]) == (1, 2, 3.5, 4)
    for wrong, words in (("1,2,3", "has 3 numbers instead of 4"), ("1,2,3,x", "is no list of numbers")):
        with pytest.raises(SettingsError, match=f"{words}; write 1,2,3,4"):
            parse(wrong)
    assert numbers(int, None, "1,2,3")("3,1") == (3, 1)
