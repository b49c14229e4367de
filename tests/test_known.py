"""The ledger of a folder: what was done is not opened again, and nothing that changed is passed over."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilesegment
from tests.fakes import Wavy, fake_card, save_fake, use
from tilesegment.model.store import save_model
from tilesegment.run.many import ahead, folder
from tilesegment.run.many.known import FolderLedger
from tilesegment.run.scene.pipeline import SceneRun

LEDGER = ".tilesegment.jsonl"


@pytest.fixture
def place(
    tmp_path: Path, make_raster: Callable[..., Path], rng: np.random.Generator, monkeypatch: Any
) -> Path:
    """A folder with three scenes and a model."""
    use(monkeypatch, Wavy())
    (tmp_path / "scenes").mkdir()
    for name in ("s1.tif", "s10.tif", "t.tif"):
        values = np.kron(rng.integers(0, 255, (3, 7, 7)), np.ones((1, 10, 10))).astype(np.uint8)
        make_raster(values).rename(tmp_path / "scenes" / name)
    save_fake(tmp_path / "m.safetensors")
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scenes that were looked at closely."""
    found: list[str] = []

    def noted(real: Any) -> Any:
        def run(task: Any, *rest: Any) -> Any:
            found.append(task.entry.name)
            return real(task, *rest)

        return run

    monkeypatch.setattr(ahead, "begun", noted(ahead.begun))
    monkeypatch.setattr(folder, "result_of", noted(folder.result_of))
    return found


def again(place: Path, **settings: Any) -> list[str]:
    given = {"model": str(place / "m.safetensors"), "min_area": 0, **settings}
    results = list(tilesegment.predict_many([place / "scenes" / "*.tif"], place / "out", **given))
    assert [Path(result.source).name for result in results] == ["s1.tif", "s10.tif", "t.tif"]
    return [f"{result.outcome} {result.reason}".strip() for result in results]


DONE = "skipped done before"


def test_what_was_done_is_not_opened(place: Path, opened: list[str]) -> None:
    assert again(place) == ["predicted"] * 3
    assert sorted(opened) == ["s1", "s10", "t"]
    opened.clear()
    told: list[tuple[int, int]] = []
    assert again(place, progress=lambda done, of, words: told.append((done, of))) == [DONE] * 3
    assert opened == []
    assert told == [(3, 3)]
    # Nothing but time is lost with it, whatever becomes of it.
    lines = [line for line in (place / "out" / LEDGER).read_text().splitlines() if line]
    for text in ("", "{}\n[1]\n", "\x00\xff", "\n".join(["no JSON", *lines[1:], lines[0][:50]])):
        (place / "out" / LEDGER).write_text(text)
        opened.clear()
        assert again(place) == [DONE] * 3
        assert opened == (["s1"] if lines[1] in text else ["s1", "s10", "t"])
    opened.clear()
    assert again(place) == [DONE] * 3
    assert opened == []


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda p: os.utime(p / "scenes" / "s1.tif", (1e9, 1e9)), ["s1"]),
        (lambda p: (p / "scenes" / "s1.tfw").write_text("2\n0\n0\n-2\n9\n9\n"), ["s1"]),
        (lambda p: (p / "scenes" / "s1.tif.aux.xml").write_text("<PAMDataset/>"), ["s1"]),
        (lambda p: (p / "scenes" / "s1_rpc.txt").write_text("x"), ["s1"]),
        # Another scene is no part of this one, whatever it is called.
        (lambda p: shutil.copy(p / "scenes" / "t.tif", p / "scenes" / "s100.txt"), []),
        (lambda p: (p / "out" / "s1.gpkg").write_bytes((p / "out" / "t.gpkg").read_bytes()), ["s1"]),
        (lambda p: (p / "out" / "s1.gpkg").unlink(), ["s1"]),
        (lambda p: (p / "out" / "s1.gpkg.json").unlink(), ["s1"]),
        (lambda p: save_model(p / "m.safetensors", {"w": np.ones(3, np.float32)}, fake_card(2)), None),
    ],
)  # fmt: skip
def test_what_changed_is_looked_at(
    place: Path, opened: list[str], change: Callable[[Path], object], changed: list[str] | None
) -> None:
    again(place)
    opened.clear()
    change(place)
    again(place)
    assert opened == (["s1", "s10", "t"] if changed is None else changed)


def test_other_settings(place: Path, opened: list[str]) -> None:
    again(place)
    opened.clear()
    # These change no output.
    assert again(place, max_memory="8GB", batch=2) == [DONE] * 3
    assert opened == []
    assert [line.partition(":")[0].split()[0] for line in again(place, threshold=0.7)] == ["failed"] * 3
    assert sorted(opened) == ["s1", "s10", "t"]
    opened.clear()
    assert again(place, threshold=0.7, overwrite=True) == ["predicted"] * 3
    assert again(place, threshold=0.7, overwrite=True, resume=False) == ["predicted"] * 3
    assert len(opened) == 6


def test_an_area_that_changed(place: Path, opened: list[str]) -> None:
    area = place / "area.geojson"
    left, right = 354000, 354010.5
    for top in (3057000, 3056999):
        ring = [[left, top - 9], [right, top - 9], [right, top], [left, top], [left, top - 9]]
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32645"}}
        area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
        opened.clear()
        again(place, aoi=str(area), overwrite=True)
        assert sorted(opened) == ["s1", "s10", "t"]
        opened.clear()
        again(place, aoi=str(area), overwrite=True)
        assert opened == []


def test_outputs_that_are_there(place: Path, opened: list[str]) -> None:
    there = "skipped its outputs are there"
    again(place)
    opened.clear()
    assert again(place, skip_existing=True, threshold=0.7) == [there] * 3
    assert opened == []
    (place / "out" / LEDGER).unlink()
    assert again(place, skip_existing=True, threshold=0.7) == [there] * 3
    assert again(place, skip_existing=True, threshold=0.7) == [there] * 3
    assert len(opened) == 3
    # That they are there does not say what they are.
    opened.clear()
    assert [line.split()[0] for line in again(place, threshold=0.7)] == ["failed"] * 3
    assert len(opened) == 3
    (place / "out" / "t.gpkg").write_bytes(b"torn")
    assert again(place, skip_existing=True)[2].startswith("failed")


def test_a_scene_that_is_replaced_while_it_is_predicted(
    place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SceneRun.publish

    def publish(run: SceneRun) -> Any:
        path = Path(run.prepared.job.scene.path)
        if path.name == "s1.tif":
            os.utime(path, (1e9, 1e9))
        return real(run)

    monkeypatch.setattr(SceneRun, "publish", publish)
    again(place)
    opened.clear()
    assert again(place)[0].startswith("failed")
    assert opened == ["s1"]


@pytest.mark.parametrize("name", ["list.vrt", "IMG_PHR1A.tif"])
def test_files_that_hang_on_others_are_opened(place: Path, opened: list[str], name: str) -> None:
    path = place / "scenes" / name
    if path.suffix == ".vrt":
        import rasterio
        from rasterio.shutil import copy

        with rasterio.open(place / "scenes" / "t.tif") as dataset:
            copy(dataset, path, driver="VRT")
    else:
        shutil.copy(place / "scenes" / "t.tif", path)
    for outcome in ("predicted", "skipped", "skipped"):
        (found,) = tilesegment.predict_many([path], place / "out", model=str(place / "m.safetensors"))
        assert found.outcome == outcome
    assert len(opened) == 3


def test_a_ledger_that_cannot_be_written_stops_nothing(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / LEDGER).mkdir()
    assert again(place) == ["predicted"] * 3
    assert again(place) == [DONE] * 3
    assert FolderLedger(place / "nowhere", tilesegment.api.scenes.PredictSettings())._lines == {}
