"""The page about a run, and what the record says of its polygons."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import tilesegment
from tests.test_pipeline import counter, model, scene
from tilesegment.errors import SettingsError
from tilesegment.report.html import bars, told
from tilesegment.vector.tally import Tally

__all__ = ["counter", "model", "scene"]


class Balanced(HTMLParser):
    """Raises where a tag is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_of_a_run(scene, model, counter, tmp_path: Path) -> None:
    out, page = tmp_path / "r<o>ofs.gpkg", tmp_path / "page.html"
    record = tilesegment.predict(scene, out, model=model(), report=page, min_area=0)
    assert str(page) in record["outputs"]
    text = page.read_text(encoding="utf-8")
    parsed = Balanced()
    parsed.feed(text)
    assert parsed.open == []
    words = " ".join(parsed.text)
    assert "r<o>ofs.gpkg" in words
    roofs = geopandas.read_file(out, layer=0)
    assert f"{len(roofs)} polygons, {roofs['area_m2'].sum():,.0f} m²" in words
    assert "http" not in text.replace("http-equiv", "")
    whole = json.loads(re.search(r"the whole record\s+(\{.*\})", words, re.DOTALL)[1])  # type: ignore[index]
    assert whole["counts"] == record["counts"]
    (data,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (187, 141)


def test_a_mask_has_a_page_too(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "m.tif", model=model(), report=tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert "ground that was seen" in text
    assert "polygons by area" not in text
    with pytest.raises(SettingsError, match=r"reports are written as \.html"):
        tilesegment.predict(scene, tmp_path / "n.tif", model=model(), report=tmp_path / "p.pdf")


def test_without_a_place_there_are_no_areas(model, counter, tmp_path: Path, rng) -> None:
    picture = np.kron(rng.integers(0, 255, (9, 9, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    tilesegment.predict(
        tmp_path / "p.png", tmp_path / "r.geojson", model=model(), report=tmp_path / "r.html"
    )
    text = (tmp_path / "r.html").read_text()
    assert "polygons" in text
    assert "m²" not in text.partition("the whole record")[0]


def test_the_record_counts_what_the_layer_holds(scene, model, counter, tmp_path: Path) -> None:
    record = tilesegment.predict(scene, tmp_path / "r.gpkg", model=model(), min_area=0, simplify=0)
    roofs = geopandas.read_file(tmp_path / "r.gpkg", layer="r")
    told_of = record["polygons"]
    assert told_of["by_class"] == {
        "class 1": {"polygons": len(roofs), "area_m2": pytest.approx(roofs["area_m2"].sum(), abs=0.01)}
    }
    edges = [*told_of["area_edges_m2"], np.inf]
    assert told_of["by_area"] == np.histogram(roofs["area_m2"], edges)[0].tolist()
    assert told_of["by_confidence"] == np.histogram(roofs["confidence"], 20, (0, 1))[0].tolist()
    assert sum(told_of["by_area"]) == record["counts"]["polygons"] == len(roofs)


def test_polygons_across_the_edges_of_blocks(scene, model, counter, tmp_path: Path) -> None:
    options = {"model": model(), "min_area": 0, "simplify": 0, "regularize": "none"}
    record = tilesegment.predict(scene, tmp_path / "r.gpkg", **options)
    from tilesegment.run.scene.prepare import prepare
    from tilesegment.settings import PredictSettings, VectorSettings

    settings = PredictSettings(model=(options["model"],), vector=VectorSettings(regularize="none"))  # type: ignore[arg-type]
    plan = prepare(str(scene), settings, True, "").with_blocks({}).job.plan
    assert record["counts"]["blocks"] == len(plan.blocks) > 1
    roofs = geopandas.read_file(tmp_path / "r.gpkg", layer="r")
    cut = 0
    for left, bottom, right, top in roofs.bounds.to_numpy():
        rows = round((3057000 - top) / 0.15), round((3057000 - bottom) / 0.15)
        cols = round((left - 354000) / 0.15), round((right - 354000) / 0.15)
        cut += any(
            rows[0] < block.window.row < rows[1] or cols[0] < block.window.col < cols[1]
            for block in plan.blocks
        )
    assert record["counts"]["polygons_across_blocks"] == cut > 0


def test_a_tally_by_hand() -> None:
    tally = Tally()
    batch = pa.record_batch(
        {"class": ["a", "b", "a"], "area_m2": [5.0, 30.0, None], "confidence": [0.5, 0.99, 1.0]}
    )
    tally.add(batch)
    tally.add(batch.slice(0, 1))
    found = tally.plain()
    assert tally.rows == 4
    assert found["by_class"] == {
        "a": {"polygons": 3, "area_m2": 10.0}, "b": {"polygons": 1, "area_m2": 30.0},
    }  # fmt: skip
    assert found["by_area"] == [2, 0, 1, 0, 0, 0, 0, 0]
    assert found["by_confidence"][10] == 2
    assert found["by_confidence"][19] == 2


def test_parts_of_pages() -> None:
    drawn = bars("a < b", [2, 0, 4], ["x", "y", "z"])
    assert re.findall(r'height="([\d.]+)" fill', drawn) == ["90.0", "0.0", "180.0"]
    assert "a &lt; b" in drawn
    assert "nan" not in bars("none", [0], ["x"])
    assert told([("n<", "v>")]) == '<table class="told"><tr><td>n&lt;</td><td>v&gt;</td></tr></table>'
