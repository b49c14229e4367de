"""Polygons of pictures as COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO

import tilesegment
from tests.fakes import save_fake, use
from tests.test_merge import Bright, save, town
from tilesegment.cli.predict import command
from tilesegment.errors import InputError, SettingsError
from tilesegment.run.many.inputs import is_several
from tilesegment.vector.coco import Picture, merge_coco, read_coco, write_coco
from tilesegment.vector.files import driver_of, ending_of, schema_of
from tilesegment.vector.read import read_layer

KINDS = {"id": pa.int64(), "class": pa.string(), "confidence": pa.float64()}
SHAPES = {
    7: shapely.box(10, 20, 30, 50),
    9: shapely.box(40, 10, 80, 60) - shapely.box(50, 20, 60, 30) - shapely.box(65, 40, 70, 50),
    12: shapely.box(90, 50, 120, 70),
    15: shapely.multipolygons([shapely.box(2, 2, 5, 5), shapely.box(6, 6, 8, 8)]),
    18: shapely.box(101, 2, 110, 5),
}  # fmt: skip


def tables(shapes: dict[int, Any] = SHAPES) -> Any:
    columns = [
        list(shapes),
        ["roof"] * len(shapes),
        [0.5] * len(shapes),
        list(shapely.to_wkb([*shapes.values()])),
    ]
    schema = schema_of(KINDS, "COCO")
    yield pa.RecordBatch.from_arrays(
        [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a.coco.json"
    write_coco(path, Picture("ä.jpg", 80, 100, ("roof", "shed")), tables(), {"software": "x"})
    return path


def inside(shape: Any) -> Any:
    return shapely.intersection(shape, shapely.box(0, 0, 100, 80))


class TestFile:
    def test_pixels_are_those_of_the_polygons(self, written: Path) -> None:
        coco = COCO(str(written))
        assert coco.imgs == {1: {"id": 1, "file_name": "ä.jpg", "width": 100, "height": 80}}
        assert [entry["name"] for entry in coco.cats.values()] == ["roof", "shed"]
        # One lies beside the picture.
        assert list(coco.anns) == [7, 9, 12, 15]
        for number, annotation in coco.anns.items():
            shape = inside(SHAPES[number])
            mask = coco.annToMask(annotation)
            # Whole pixels: their area is the polygon's, holes and parts included.
            assert mask.sum() == shape.area == annotation["area"], number
            rows, cols = np.nonzero(mask)
            assert shapely.contains_xy(shape, cols + 0.5, rows + 0.5).all(), number
            left, top, right, bottom = shape.bounds
            assert annotation["bbox"] == [left, top, right - left, bottom - top]
            assert annotation["score"] == 0.5
            assert annotation["category_id"] == 1
        assert len(coco.anns[15]["segmentation"]) == 2

    def test_read_again_as_polygons(self, written: Path) -> None:
        found = read_coco(written).set_index("id")
        assert found.crs is None
        assert set(found["picture"]) == {"ä.jpg"}
        for number in (7, 9, 12, 15):
            assert found.geometry[number].equals(inside(SHAPES[number]))
            assert found["class"][number] == "roof"

    def test_several_become_one(self, written: Path, tmp_path: Path) -> None:
        other, whole = tmp_path / "b.coco.json", tmp_path / "all.coco.json"
        write_coco(
            other, Picture("b.jpg", 30, 40, ("roof", "shed")), tables({3: shapely.box(1, 1, 4, 5)}), {}
        )
        empty = tmp_path / "c.coco.json"
        write_coco(empty, Picture("c.jpg", 3, 4, ("roof", "shed")), iter(()), {})
        assert merge_coco([written, empty, other], ["a.jpg", "c.jpg", "b.jpg"], whole, {"model": "m"}) == 5
        coco = COCO(str(whole))
        assert [(image["file_name"], image["width"]) for image in coco.imgs.values()] == [
            ("a.jpg", 100), ("c.jpg", 4), ("b.jpg", 40),
        ]  # fmt: skip
        assert [(a["id"], a["image_id"]) for a in coco.anns.values()] == [
            (1, 1),
            (2, 1),
            (3, 1),
            (4, 1),
            (5, 3),
        ]
        assert coco.annToMask(coco.anns[5]).sum() == 12
        assert json.loads(whole.read_text())["info"] == {"model": "m"}

    @pytest.mark.parametrize("text", ["", "[1]", '{"images": []}'])
    def test_what_is_none_of_coco(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.coco.json"
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.coco\.json: cannot be read as COCO JSON"):
            read_coco(path)

    def test_names(self) -> None:
        assert ending_of("X/Photo.COCO.JSON") == ".coco.json"
        assert driver_of("photo.coco.json") == "COCO"
        assert driver_of("photo.json") == "GeoJSON"
        assert driver_of("coco.json") == "GeoJSON"
        with pytest.raises(SettingsError, match=r"-o all/ --format coco.json"):
            is_several(["a", "b"], "all.coco.json")


class TestPredict:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        use(monkeypatch, Bright())
        return save_fake(tmp_path / "model.safetensors")

    @pytest.fixture
    def pictures(self, tmp_path: Path) -> Path:
        """Two parts of a town of six houses: five in each."""
        folder = tmp_path / "p"
        folder.mkdir()
        for name, part in (("1", np.s_[:, :120]), ("2", np.s_[:, 80:])):
            Image.fromarray(town().transpose(1, 2, 0)[part]).save(folder / f"{name}.png")
        return folder

    def test_one_picture_has_the_polygons_of_geojson(
        self, model: str, pictures: Path, tmp_path: Path
    ) -> None:
        for ending in ("coco.json", "geojson"):
            tilesegment.predict(pictures / "1.png", tmp_path / f"a.{ending}", model=model, min_area=0)
        one, other = read_coco(tmp_path / "a.coco.json"), geopandas.read_file(tmp_path / "a.geojson")
        assert len(one) == len(other) == 5
        assert [a.equals(b) for a, b in zip(one.geometry, other.geometry, strict=True)] == [True] * 5
        np.testing.assert_allclose(one["confidence"], other["confidence"])
        assert COCO(str(tmp_path / "a.coco.json")).imgs == {
            1: {"id": 1, "file_name": "1.png", "height": 60, "width": 120}
        }
        # IN_THE_WEST of the town is a rectangle of whole pixels.
        first = one.geometry[0]
        assert first.bounds == (10, 5, 30, 15)

    def test_a_scene_at_another_pixel_size_is_in_its_own_pixels(self, model: str, tmp_path: Path) -> None:
        scene = save(tmp_path / "s.tif", town(), 0)
        tilesegment.predict(scene, tmp_path / "s.coco.json", model=model, gsd=0.075, min_area=0)
        found = read_coco(tmp_path / "s.coco.json")
        np.testing.assert_allclose(found.geometry[1].bounds, (10, 5, 30, 15), atol=0.6)
        assert found.total_bounds[2] <= 200

    def test_a_folder_becomes_one_file_and_only_new_pictures_are_predicted(
        self, model: str, pictures: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "all.coco.json"

        def run(**options: Any) -> list[Any]:
            words = sorted(str(path) for path in pictures.iterdir())
            return list(
                tilesegment.predict_many(words, output, merge=True, model=model, min_area=0, **options)
            )

        first = run()
        assert [str(result.outcome) for result in first] == ["predicted"] * 2
        assert len(first[0].polygons()) == (read_coco(output)["picture"] == "1.png").sum() == 5
        Image.fromarray(town().transpose(1, 2, 0)).save(pictures / "3.png")
        assert [str(result.outcome) for result in run(overwrite=True)] == ["skipped"] * 2 + ["predicted"]
        found = read_coco(output)
        assert found["picture"].value_counts().to_dict() == {"1.png": 5, "2.png": 5, "3.png": 6}
        assert found["id"].tolist() == list(range(1, 17))

    def test_pictures_of_one_name_are_told_apart(self, model: str, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "q").mkdir()
        (pictures / "1.png").rename(tmp_path / "q" / "2.png")
        output = tmp_path / "all.coco.json"
        result = CliRunner().invoke(
            command,
            [f"{tmp_path}/*/2.png", "-o", str(output), "--merge", "--model", model, "--min-area", "0"],
        )
        assert result.exit_code == 0, result.output
        assert "10 polygons of 2 scenes: " in result.stderr
        assert set(read_coco(output)["picture"]) == {str(pictures / "2.png"), str(tmp_path / "q/2.png")}

    def test_it_is_in_pixels(self, model: str, pictures: Path, tmp_path: Path) -> None:
        output = tmp_path / "a.coco.json"
        with pytest.raises(SettingsError, match="COCO JSON is in pixels"):
            tilesegment.predict(pictures / "1.png", output, model=model, lco={"A": "B"})
        tilesegment.predict(pictures / "1.png", output, model=model)
        with pytest.raises(InputError, match="no place on the Earth"):
            read_layer(str(output))
