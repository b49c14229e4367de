"""Callers' values: of the declared types, or refused under the name they were given by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilesegment
from tilesegment.api import predict_settings
from tilesegment.errors import OutputError, SettingsError
from tilesegment.settings import Measure


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gsd", "abc", "gsd: 'abc' is not a number"),
        ("gsd", True, "gsd: True is not a number"),
        ("bidx", "1,2,3", "bidx: '1,2,3' is not a list of numbers"),
        ("bidx", [1, "x", 3], "bidx: .* is not a list of numbers"),
        ("bidx", 3, "bidx: 3 is not a list of numbers"),
        ("bbox", (1, 2, 3), "bbox: .* is not a list of 4 numbers"),
        ("aoi", {"type": "Polygon"}, "aoi: .* is not a text"),
        ("aoi", np.zeros(3), "aoi: .* is not a text"),
        ("overlap", 1.5, "overlap: 1.5 is not a whole number"),
        ("batch", None, None),
        ("connectivity", 5, "connectivity 5 is neither 4 nor 8"),
        ("min_area", "x", "'x' is no measure"),
        ("min_area", [2], "min_area: .2. is not a Measure"),
        ("workers", "2", "workers: '2' is not a whole number"),
        ("match_input", "yes", "match_input: 'yes' is not True or False"),
        ("match_input", 1, "match_input: 1 is not True or False"),
        ("co", ["A=b"], "co: .* is not a mapping of names to texts"),
        ("blend", 3, "blend: 3 is not a text"),
        ("overlaps", 3, "unknown setting 'overlaps'; did you mean 'overlap'"),
        ("vector", 3, "unknown setting 'vector'"),
        ("model", b"x", "model: b'x' is not a list of texts"),
    ],
)
def test_wrong_types(name: str, value: Any, words: str | None) -> None:
    if words is None:
        assert getattr(predict_settings({name: value}), name) is None
        return
    with pytest.raises(SettingsError, match=words):
        predict_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("gsd", 1, 1.0),
        ("gsd", np.float32(0.5), 0.5),
        ("overlap", np.int64(32), 32),
        ("overlap", 32.0, 32),
        ("bidx", [3, 2, 1], (3, 2, 1)),
        ("bidx", np.array([3, 2, 1]), (3, 2, 1)),
        ("bbox", [1, 2, 3, 4], (1.0, 2.0, 3.0, 4.0)),
        ("aoi", Path("a/b.gpkg"), "a/b.gpkg"),
        ("model", Path("m"), ("m",)),
        ("model", [Path("m"), "n"], ("m", "n")),
        ("tile", 256, (256, 256)),
        ("tile", "256x512", (256, 512)),
        ("tile", (256, 512), (256, 512)),
        ("max_memory", "2GiB", 2**31),
        ("max_memory", "1.5GB", 1_500_000_000),
        ("max_memory", 10**9, 10**9),
        ("co", {"A": 1}, (("A", "1"),)),
        ("co", [("A", "b")], (("A", "b"),)),
        ("nodata", 0, 0.0),
    ],
)
def test_what_is_taken(name: str, value: Any, expected: Any) -> None:
    found = getattr(predict_settings({name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


def test_measures() -> None:
    for value, expected in (
        (3, Measure(3)),
        ("3px", Measure(3, True)),
        (Measure(3, True), Measure(3, True)),
    ):
        assert predict_settings({"min_area": value}).vector.min_area == expected


@pytest.mark.parametrize("function", [tilesegment.vectorize, tilesegment.predict])
def test_paths_and_parameters_by_their_own_names(function: Any, make_raster, tmp_path: Path) -> None:
    values = np.zeros((3, 20, 30), np.uint8)
    path = make_raster(values if function is tilesegment.predict else values[0])
    with pytest.raises(SettingsError, match="output: 3 is no path"):
        function(path, 3)
    with pytest.raises(SettingsError, match="source: None is neither a path nor a URI"):
        function(None, tmp_path / "r.gpkg")
    (tmp_path / "r.gpkg").touch()
    with pytest.raises(OutputError, match="choose another name or give overwrite=True"):
        function(path, tmp_path / "r.gpkg")
    with pytest.raises(SettingsError, match=r"^output .*x: unknown extension"):
        function(path, tmp_path / "r.x")
    with pytest.raises(SettingsError, match=r"^src_crs 'nothing' is no known CRS"):
        function(path, tmp_path / "s.gpkg", src_crs="nothing")


def test_scenes_too() -> None:
    for value in (5, None, b"x", np.zeros((3000, 3))):
        with pytest.raises(SettingsError, match="is neither a path nor a URI") as caught:
            tilesegment.open_scene(value)
        assert len(str(caught.value)) < 200


def test_evaluation_too(tmp_path: Path) -> None:
    for settings, words in (
        ({"distances": "1"}, "distances: '1' is not a list of numbers"),
        ({"pixel": None}, "pixel: None is not a number"),
        ({"pixels": 1}, "unknown setting 'pixels'"),
    ):
        with pytest.raises(SettingsError, match=words):
            tilesegment.evaluate_scene("a.gpkg", "b.gpkg", **settings)
