"""A graph in int8 beside the weights: made, judged, kept, chosen."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

import tilesegment
from tests import layouts
from tests.test_cli import run
from tests.test_engines import small_card
from tilesegment.errors import InputError, ModelError, OutputError, SettingsError
from tilesegment.model import quantize as room
from tilesegment.model.build import build_network, load_network
from tilesegment.model.engines import choose, openvino
from tilesegment.model.engines.choose import choose_engine
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import Graph, find_model, read_int8, read_weights, save_model
from tilesegment.raster.spec import Pixels
from tilesegment.run import quantize as story

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra tilesegment[int8]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILESEGMENT_CACHE", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (3, 30, 30)).repeat(10, axis=1).repeat(10, axis=2)
    picture = np.clip(coarse + rng.normal(0, 9, coarse.shape), 0, 255).astype(np.uint8)
    path = layouts.save_tif(folder / "scene.tif", picture, crs="EPSG:32645")
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    torch.manual_seed(3)
    card = small_card(2)
    state = {name: tensor.numpy() for name, tensor in build_network(card).state_dict().items()}
    save_model(folder / "plain.safetensors", state, card)
    return folder / "plain.safetensors"


@pytest.fixture(scope="module")
def made(plain: Path, scene: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "int8.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        # A network that was never trained says nearly the same of everything.
        patch.setattr(story, "_ALIKE", 0.5)
        patch.setattr(story, "_SECONDS", 0.05)
        return path, tilesegment.quantize(str(plain), [scene], output=path, tiles=9)


@needs_nncf
class TestMade:
    def test_one_file_has_card_weights_and_graph(self, made, plain: Path) -> None:
        path, result = made
        before, after = find_model(str(plain)), find_model(str(path))
        assert (before.quantized, after.quantized) == (False, True)
        assert after.card == before.card
        assert after.bytes == before.bytes
        weights = read_weights(after)
        for name, array in read_weights(before).items():
            np.testing.assert_array_equal(weights[name], array)
        assert weights.keys() == read_weights(before).keys()
        load_network(after)
        assert result["model"] == str(path)
        assert result["tiles"] == 9
        assert result["kept"] == 5
        assert 0.5 <= result["alike"] <= 1
        assert result["megapixels_per_second_int8"] > 0

    def test_it_is_in_int8_but_for_what_is_kept(self, made) -> None:
        graph = read_int8(find_model(str(made[0])))
        assert graph is not None
        assert graph.xml.count(b'"FakeQuantize"') > 20
        assert len(graph.weights) < 0.6 * find_model(str(made[0])).bytes

    def test_it_predicts_nearly_the_same_in_any_tile(self, made, scene: Path, folder: Path) -> None:
        found = {}
        for precision in ("fp32", "int8"):
            record = tilesegment.predict(
                scene, folder / f"{precision}.tif", model=str(made[0]), precision=precision, tile=(96, 96),
                probability=folder / f"{precision}-p.tif", overwrite=True,
            )  # fmt: skip
            assert record["engine"][0].endswith(f"cpu {precision}")
            with rasterio.open(folder / f"{precision}-p.tif") as dataset:
                found[precision] = dataset.read(1).astype(int)
        apart = np.abs(found["fp32"] - found["int8"])
        assert apart.max() > 0
        assert apart.mean() < 5

    def test_blocks_change_nothing(self, made, scene: Path, folder: Path, monkeypatch) -> None:
        from tilesegment.tiling import memory

        found = []
        monkeypatch.setattr(memory, "LEAST_BLOCK_PIXELS", 1)
        for work, pixels in ((1.0, 10**9), (3.0, 9000)):
            monkeypatch.setattr(memory, "MOST_WORK", work)
            monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", pixels)
            out = folder / f"blocks{pixels}.tif"
            record = tilesegment.predict(scene, out, model=str(made[0]), precision="int8")
            with rasterio.open(out) as dataset:
                found.append((record["counts"]["blocks"], dataset.read(1)))
        assert found[0][0] < found[1][0]
        np.testing.assert_array_equal(found[0][1], found[1][1])

    def test_a_changed_card_keeps_the_graph(self, made, scene: Path, folder: Path) -> None:
        path = folder / "calibrated.safetensors"
        tilesegment.calibrate(str(made[0]), scene, output=path, sites=2)
        assert read_int8(find_model(str(path))) == read_int8(find_model(str(made[0])))

    def test_tiles_that_tell_something_are_chosen(self, plain: Path, folder: Path, monkeypatch) -> None:
        picture = np.zeros((3, 400, 400), np.uint8)
        picture[:, :, 300:] = np.random.default_rng(2).integers(0, 255, (3, 400, 100))
        path = layouts.save_tif(folder / "half.tif", picture, crs="EPSG:32645")
        asked = []

        def classes(predictor: Any, card: Any, tile: Pixels) -> np.ndarray:
            asked.append(tile.values.shape)
            return np.asarray(tile.values[0] > 0, np.int64)

        monkeypatch.setattr(story, "tile_classes", classes)
        tiles = story._drawn(find_model(str(plain)), str(path), 6)
        assert set(asked) == {(3, 64, 64)}
        assert 12 < len(asked) <= 18
        assert len(tiles) == 6
        assert sum((tile.values > 0).any() for tile in tiles.pixels) >= 3

    def test_what_changes_too_much_is_not_written(self, made, plain, scene, folder, monkeypatch) -> None:
        monkeypatch.setattr(story, "quantized_graph", lambda *_: read_int8(find_model(str(made[0]))))
        monkeypatch.setattr(story, "_KEPT", (0,))
        monkeypatch.setattr(story, "_judged", lambda *_: {"alike": 0.9, "seen": 5})
        path = folder / "never.safetensors"
        words = r"in int8 its masks have an IoU of 0\.9000 with those in floats, less than 0\.98; nothing"
        with pytest.raises(ModelError, match=words):
            tilesegment.quantize(str(plain), [scene], output=path, tiles=3)
        assert list(folder.glob("*never*")) == []

    def test_a_full_disk_leaves_nothing(self, made, plain, scene, folder, monkeypatch) -> None:
        monkeypatch.setattr(story, "quantized_graph", lambda *_: read_int8(find_model(str(made[0]))))

        def full(path: Path, *_: Any) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(story, "save_model", full)
        before = set(folder.iterdir())
        with pytest.raises(OutputError, match=r"full\.safetensors: cannot be written \(No space left"):
            tilesegment.quantize(str(plain), [scene], output=folder / "full.safetensors", tiles=3)
        assert set(folder.iterdir()) == before

    def test_where_nothing_is_seen_nothing_is_judged(self, made, plain, scene, folder, monkeypatch) -> None:
        monkeypatch.setattr(story, "quantized_graph", lambda *_: read_int8(find_model(str(made[0]))))
        monkeypatch.setattr(story, "_judged", lambda *_: {"alike": 1.0, "seen": 0})
        with pytest.raises(InputError, match="nothing of any class is found in the tiles"):
            tilesegment.quantize(str(plain), [scene], output=folder / "x.safetensors", tiles=3)

    def test_labels_judge_floats_against_int8(self, made, folder: Path, monkeypatch) -> None:
        asked = []

        def evaluated(path: str, reader: Any, data: str, split: str, *, engine: Any) -> tuple:
            asked.append((engine.engine, engine.precision))
            return {"pixels": {"iou": None if len(asked) > 2 else 0.5}}, None

        monkeypatch.setattr(story, "evaluate_model", evaluated)
        labels = story.Labels(None, "set", "val")  # type: ignore[arg-type]
        assert [story._iou("m", labels, precision) for precision in ("fp32", "int8")] == [0.5, 0.5]
        assert asked == [("openvino", "fp32"), ("openvino", "int8")]
        with pytest.raises(InputError, match="set: no pixel of any class in the val split"):
            story._iou("m", labels, "int8")

    @pytest.mark.parametrize(("after", "passes"), [(0.6951, True), (0.6949, False)])
    def test_labels_have_the_last_word(
        self, made, plain, scene, folder, monkeypatch, after: float, passes: bool
    ) -> None:
        monkeypatch.setattr(story, "quantized_graph", lambda *_: read_int8(find_model(str(made[0]))))
        root = layouts.rooftops(folder / f"set{after}", 12, 96, nested=False)
        figures = iter([0.7, after])
        monkeypatch.setattr(story, "_SECONDS", 0.01)
        monkeypatch.setattr(story, "_KEPT", (0,))
        monkeypatch.setattr(story, "_iou", lambda path, labels, precision: next(figures))
        path = folder / f"judged{after}.safetensors"
        given = {"output": path, "tiles": 3, "data": root, "kind": "rooftop-tiles"}
        if passes:
            assert tilesegment.quantize(str(plain), [scene], **given)["iou"] == after
        else:
            with pytest.raises(ModelError, match=r"IoU falls from 0\.7000 to 0\.6949, by more than 0\.005"):
                tilesegment.quantize(str(plain), [scene], **given)
        assert path.exists() == passes

    def test_command(self, made, scene: Path, folder: Path) -> None:
        done = run("quantize", made[0], scene, "-o", folder / "no" / "m.safetensors")
        assert done.returncode == 1
        assert "no: no such folder" in done.stderr
        done = run("quantize", "roofs", scene, "--json")
        assert done.returncode == 1
        assert "its card cannot be changed; name a new file with -o" in done.stderr
        assert run("quantize", made[0]).returncode == 2


def one_pixel(value: int) -> Pixels:
    return Pixels(np.full((1, 1, 1), value), np.ones((1, 1), bool))


def test_alike_is_the_iou_of_masks_of_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = {
        "fp32": [np.array([[1, 1, 0, 0]]), np.array([[2, 0, 0, 0]])],
        "int8": [np.array([[1, 0, 0, 1]]), np.array([[1, 0, 0, 0]])],
    }
    monkeypatch.setattr(story, "_predictor", lambda model, tiles, precision: precision)
    monkeypatch.setattr(
        story, "tile_classes", lambda predictor, card, tile: masks[predictor][int(tile.values[0, 0, 0])]
    )
    monkeypatch.setattr(story, "_rate", lambda predictor, tile: 3.0 if predictor == "int8" else 1.0)
    judges = np.array([True, False, False, True])
    tiles = story._Tiles([one_pixel(k) for k in (0, 9, 9, 1)], ValueRange((0,), (1,)), judges)
    model = find_model("roofs")
    found = story._judged(model, model, [tiles])
    # One pixel of four is the same class on both.
    assert found == {
        "alike": 0.25,
        "seen": 4,
        "megapixels_per_second_fp32": 1.0,
        "megapixels_per_second_int8": 3.0,
    }


def test_every_third_tile_of_all_judges() -> None:
    parts = [story._Tiles([one_pixel(0)] * n, ValueRange((0,), (1,)), np.zeros(n, bool)) for n in (1, 1, 5)]
    apart = story._set_apart(parts)
    assert [part.judges.tolist() for part in apart] == [[True], [False], [False, True, False, False, True]]
    with pytest.raises(InputError, match="room for 2 tiles side by side; at least 3"):
        story._set_apart(parts[:2])


class TestWrong:
    def test_without_nncf(self, plain: Path, scene: Path, folder: Path, monkeypatch) -> None:
        find = room.importlib.util.find_spec
        monkeypatch.setattr(
            room.importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name)
        )
        with pytest.raises(ModelError, match=r"pip install 'tilesegment\[int8\]'"):
            tilesegment.quantize(str(plain), [scene], output=folder / "x.safetensors", tiles=3)

    def test_inputs(self, plain: Path, scene: Path, folder: Path) -> None:
        small = layouts.save_tif(folder / "small.tif", np.ones((3, 20, 20), np.uint8), crs="EPSG:32645")
        given = {"output": folder / "x.safetensors", "tiles": 3}
        with pytest.raises(InputError, match=r"20x20 pixels .* at least 64x64 are needed"):
            tilesegment.quantize(str(plain), [small], **given)
        with pytest.raises(SettingsError, match="data and as need each other"):
            tilesegment.quantize(str(plain), [scene], data=folder, **given)
        with pytest.raises(SettingsError, match="tiles 2 is less than 3"):
            tilesegment.quantize(str(plain), [scene], output=folder / "x.safetensors", tiles=2)
        with pytest.raises(SettingsError, match="name at least one scene"):
            tilesegment.quantize(str(plain), [], **given)
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.quantize(str(plain), [scene], output=plain)

    def test_a_model_without_the_graph(self, plain: Path, scene: Path, folder: Path) -> None:
        with pytest.raises(
            SettingsError, match="precision int8: the model has no graph in it; make one with"
        ):
            tilesegment.predict(scene, folder / "x.tif", model=str(plain), precision="int8")
        assert read_int8(find_model(str(plain))) is None


def test_int8_is_taken_where_model_and_cpu_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "native_bf16", lambda: True)
    for native, quantized, expected in (
        (True, True, "int8"), (True, False, "bf16"), (False, True, "bf16"), (False, False, "bf16"),
    ):  # fmt: skip
        monkeypatch.setattr(openvino, "fast_int8", lambda native=native: native)
        assert choose_engine("openvino", "cpu", "auto", quantized).precision == expected
    assert choose_engine("openvino", "cpu", "fp32", True).precision == "fp32"
    assert choose_engine("auto", "cpu", "int8", True).engine == "openvino"
    with pytest.raises(SettingsError, match="onnx computes in fp32, not in int8"):
        choose_engine("onnx", "cpu", "int8", True)
    with pytest.raises(SettingsError, match="int8 is for --engine openvino on the CPU"):
        choose_engine("torch", "auto", "int8", True)
    monkeypatch.setattr(choose, "gpu_count", lambda: 1)
    assert choose_engine("auto", "auto", "int8", True).engine == "openvino"


def test_the_graph_lies_beside_the_weights(tmp_path: Path) -> None:
    card = small_card(2)
    graph = Graph(b"<net/>", bytes(range(256)))
    save_model(tmp_path / "m.safetensors", {"w": np.ones(3, np.float32)}, card, graph)
    model = find_model(str(tmp_path / "m.safetensors"))
    assert read_int8(model) == graph
    assert list(read_weights(model)) == ["w"]
    assert model.bytes == 12
    text = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert header["openvino_int8.bin"]["dtype"] == "U8"
