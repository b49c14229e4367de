"""ONNX files as models: those of the QGIS plugin Deepness, and our own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import tilesegment
from tilesegment.errors import ModelError, SettingsError
from tilesegment.model import onnxfile
from tilesegment.model.engines import Setup, load_engine
from tilesegment.model.engines.choose import choose_engine
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import CARD_KEY, find_model
from tilesegment.tiling.blend import FINE_MAX

if find_spec("onnx") is None or find_spec("onnxruntime") is None:
    pytest.skip("needs the extra tilesegment[onnx]", allow_module_level=True)
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ENGINES = ("openvino", "onnx")
DEEPNESS = {
    "model_type": "Segmentor",
    "class_names": {"0": "_background", "1": "building"},
    "resolution": 15.0,
    "tile_size": 64,
    "tiles_overlap": 25,
    "standardization_mean": [0.4, 0.5, 0.6],
    "standardization_std": [0.2, 0.3, 0.4],
    "seg_thresh": 0.6,
}


def write(
    path: Path,
    channels: int = 1,
    activation: str | None = "Sigmoid",
    size: tuple[Any, Any] = (64, 64),
    batch: Any = "n",
    squeezed: bool = False,
    told: dict[str, Any] | None = None,
    gives: tuple[Any, Any] | None = None,
    outputs: int = 1,
    bands: int = 3,
) -> Path:
    """A network of one convolution of 1 x 1."""
    rng = np.random.default_rng(channels)
    weights = rng.normal(size=(channels, bands, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"])]
    last = "logits"
    if activation is not None:
        more = {"axis": 1} if activation == "Softmax" else {}
        nodes.append(helper.make_node(activation, [last], ["said"], **more))
        last = "said"
    arrays = [numpy_helper.from_array(weights, "w")]
    if squeezed:
        arrays.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        nodes.append(helper.make_node("Squeeze", [last, "axes"], ["flat"]))
        last = "flat"
    shape = [batch, *(() if squeezed else (channels,)), *(gives or size)]
    found = [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)]
    if outputs == 2:
        nodes.append(helper.make_node("Identity", [last], ["again"]))
        found.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, shape))
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, bands, *size])]
    graph = helper.make_graph(nodes, "g", given, found, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (DEEPNESS if told is None else told).items():
        model.metadata_props.append(
            onnx.StringStringEntryProto(key=key, value=value if isinstance(value, str) and key == "names"
                                        else json.dumps(value))
        )  # fmt: skip
    path.write_bytes(model.SerializeToString())
    return path


class TestCards:
    def test_the_keys_of_deepness(self, tmp_path: Path) -> None:
        model = find_model(str(write(tmp_path / "a.onnx")))
        card = model.card
        assert [entry.name for entry in card.classes] == ["building"]
        assert card.labels[1].name == "building"
        assert (card.gsd, card.tile, card.overlap, card.threshold) == (0.15, (64, 64), 16, 0.6)
        assert (card.mean, card.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        assert (card.dtype, card.value_range) == ("uint8", (0.0, 255.0))
        assert card.probabilities
        assert card.drawn == "right"
        assert model.graph is not None
        assert (model.graph.batch, model.graph.tile, model.bytes) == (None, (64, 64), 12)

    def test_what_is_not_said(self, tmp_path: Path) -> None:
        told = {"names": "{0: 'a', 1: 'b', 2: 'c'}"}
        path = write(tmp_path / "a.onnx", 3, "Softmax", ("h", "w"), 2, told=told)
        model = find_model(str(path))
        card = model.card
        assert [entry.name for entry in card.classes] == ["a", "b", "c"]
        assert (card.gsd, card.tile, card.overlap, card.threshold) == (None, (512, 512), 77, 0.5)
        assert (card.mean, card.std) == ((0.0,) * 3, (1.0,) * 3)
        assert model.graph is not None
        assert (model.graph.batch, model.graph.tile) == (2, None)
        only = find_model(str(write(tmp_path / "b.onnx", 2, None, told={"resolution": 50})))
        assert [entry.name for entry in only.card.classes] == ["class_0", "class_1"]
        assert only.card.gsd == 0.5
        assert not only.card.probabilities
        # Overlaps of more than half a tile have no use.
        much = find_model(str(write(tmp_path / "c.onnx", told={**DEEPNESS, "tiles_overlap": 90})))
        assert much.card.overlap == 32

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"told": {}}, "neither a card nor the keys of Deepness"),
            ({"told": {**DEEPNESS, "model_type": "Detector"}}, "a detector, and a network that segments"),
            ({"channels": 3}, "2 names for 3 classes"),
            ({"outputs": 2}, "a network that takes"),
            ({"gives": (60, 62)}, "gives 60 x 62 pixels of 64 x 64"),
            ({"bands": "c"}, "does not say how many bands it takes"),
            ({"told": {**DEEPNESS, "class_names": {"a": "b"}}}, "its metadata cannot be read"),
            ({"told": {**DEEPNESS, "standardization_std": [1.0]}}, "3 bands, but 3 means and 1"),
            ({"told": {**DEEPNESS, "seg_thresh": 1.5}}, "threshold 1.5 is not between 0 and 1"),
            ({"told": {**DEEPNESS, CARD_KEY: {"version": 9}}}, "card version 9"),
        ],
    )
    def test_what_is_no_model(self, tmp_path: Path, options: dict[str, Any], words: str) -> None:
        path = tmp_path / "a.onnx"
        if options.get("bands") == "c":
            write(path)
            model = onnx.load(path)
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
            path.write_bytes(model.SerializeToString())
        else:
            write(path, **options)
        with pytest.raises(ModelError) as caught:
            find_model(str(path))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_is_no_onnx_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(b"no such thing \xff")
        with pytest.raises(ModelError, match="not an ONNX file"):
            find_model(str(tmp_path / "a.onnx"))

    def test_metadata_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        card = find_model("roofs").card
        told = onnxfile.metadata(card)
        assert json.loads(told["class_names"]) == {"0": "background", "1": "roof"}
        assert json.loads(told["resolution"]) == 15.0
        assert json.loads(told["tiles_overlap"]) == round(100 * card.overlap / card.tile[0])
        assert json.loads(told["seg_thresh"]) == card.threshold
        assert json.loads(told["model_type"]) == "Segmentor"


class TestEngines:
    @pytest.mark.parametrize("name", ENGINES)
    @pytest.mark.parametrize(
        "options",
        [
            {}, {"squeezed": True}, {"batch": 4}, {"channels": 2, "activation": "Softmax"},
            {"channels": 2, "activation": None}, {"size": ("h", "w")},
            {"channels": 3, "activation": "Softmax", "told": {"resolution": 15}},
            {"channels": 3, "activation": "Sigmoid", "told": {"resolution": 15}},
        ],
        ids=str,
    )  # fmt: skip
    def test_probabilities_are_those_of_the_file(self, tmp_path: Path, rng, name: str, options) -> None:
        path = write(tmp_path / "a.onnx", **options)
        model = find_model(str(path))
        setup = Setup((40, 64), "uint8", ValueRange.of_all((0.0, 255.0), 3), streams=2)
        engine = load_engine(name, model, setup)
        values = rng.integers(0, 255, (engine.batch, 3, 40, 64)).astype(np.uint8)
        valid = rng.random((engine.batch, 40, 64)) > 0.2
        found = np.asarray(engine.submit(values, valid).result()) / FINE_MAX
        mean, std = (
            np.array(each, np.float32)[:, None, None] for each in (model.card.mean, model.card.std)
        )
        ready = np.where(valid[:, None], (values / np.float32(255) - mean) / std, 0).astype(np.float32)
        whole = np.zeros((4, 3, 64, 64), np.float32)
        whole[: len(ready), :, :40] = ready
        said = onnxruntime.InferenceSession(path).run(None, {"image": whole})[0][: len(ready)]
        said = said[:, None] if said.ndim == 3 else said
        if options.get("activation", "") is None:
            said = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
        said = (said[:, 1:] if said.shape[1] == 2 else said)[:, :, :40]
        np.testing.assert_allclose(found, said, atol=1e-4)

    def test_tiles_that_are_too_large(self, tmp_path: Path) -> None:
        model = find_model(str(write(tmp_path / "a.onnx")))
        assert model.padded((64, 30)) == (64, 64)
        with pytest.raises(ModelError, match="takes tiles of 64 x 64 pixels, not 65 x 64"):
            model.padded((65, 64))
        free = find_model(str(write(tmp_path / "b.onnx", size=("h", "w"))))
        assert free.padded((65, 64)) == (96, 64)

    def test_engines_that_can(self) -> None:
        assert choose_engine("auto", "auto", "fp32", graph=True).engine == "openvino"
        assert choose_engine("onnx", "auto", "fp32", graph=True).engine == "onnx"
        with pytest.raises(SettingsError, match="an ONNX file is computed by openvino or onnx"):
            choose_engine("torch", "auto", "auto", graph=True)

    def test_without_openvino(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tilesegment.model.engines import choose

        monkeypatch.setattr(
            choose.importlib.util, "find_spec", lambda name: None if name == "openvino" else 1
        )
        assert choose_engine("auto", "auto", "fp32", graph=True).engine == "onnx"


class TestRuns:
    def predict(self, scene: Path, model: Path, out: Path, **settings: Any) -> np.ndarray:
        tilesegment.predict(scene, out, model=str(model), precision="fp32", overwrite=True, **settings)
        with rasterio.open(out) as dataset:
            values: np.ndarray = dataset.read(1)
        return values

    @pytest.mark.parametrize("shape", [(150, 201), (20, 31)])
    def test_scenes_of_any_size(
        self, tmp_path: Path, make_raster: Callable[..., Path], rng, shape: tuple[int, int]
    ) -> None:
        path = write(tmp_path / "a.onnx")
        values = rng.integers(0, 255, (3, *shape)).astype(np.uint8)
        scene = make_raster(values)
        mean, std = (np.array(DEEPNESS[f"standardization_{k}"])[:, None, None] for k in ("mean", "std"))
        (kernel,) = (numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer)
        logits = np.einsum("cb,bhw->chw", kernel[..., 0, 0], (values / 255 - mean) / std)[0]
        chance = 1 / (1 + np.exp(-logits))
        expected, sure = chance >= 0.6, np.abs(chance - 0.6) > 0.01
        for engine in ENGINES:
            found = self.predict(scene, path, tmp_path / f"{engine}.tif", engine=engine)
            np.testing.assert_array_equal(found[sure] == 1, expected[sure])

    def test_a_file_of_ours_is_the_model_again(self, tmp_path: Path, make_raster, rng) -> None:
        """Same card, and masks that differ where a probability lies on the threshold at most."""
        from tests.test_engines import small_card
        from tilesegment.model.build import build_network
        from tilesegment.model.store import save_model

        options = {"encoder_depth": 3, "decoder_channels": [16, 8, 4]}
        card = dataclasses.replace(small_card(2), encoder="resnet18", options=options)
        network = build_network(card)
        weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        save_model(tmp_path / "m.safetensors", weights, card)
        done = tilesegment.export(str(tmp_path / "m.safetensors"), tmp_path / "m.onnx", tile=64)
        assert done["largest_difference"] < 1e-5
        smooth = np.kron(rng.integers(0, 255, (3, 12, 15)), np.ones((1, 10, 10))).astype(np.uint8)
        scene = make_raster(smooth)
        one, other = (
            self.predict(scene, tmp_path / name, tmp_path / f"{name}.tif", tile=(64, 64), overlap=16)
            for name in ("m.safetensors", "m.onnx")
        )
        assert (one != other).mean() < 1e-3
        with pytest.raises(ModelError, match="is an ONNX file already"):
            tilesegment.export(str(tmp_path / "m.onnx"), tmp_path / "n.onnx")
        with pytest.raises(ModelError, match="this takes the model it was made from"):
            tilesegment.calibrate(str(tmp_path / "m.onnx"), scene, output=tmp_path / "c.safetensors")
