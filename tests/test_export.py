"""Models for other programs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tilesegment
from tests.test_model import small_card
from tilesegment.cli.export import _FORMATS, command
from tilesegment.errors import ExistsError, InputError, ModelError, OutputError, SettingsError
from tilesegment.interop.stac import model_item
from tilesegment.model import sharing
from tilesegment.model.build import build_network
from tilesegment.model.card import Card
from tilesegment.model.sharing import _CARD_FILE, FORMATS, read_shared
from tilesegment.model.store import find_model, save_model
from tilesegment.run import export as story

KINDS = [
    pytest.param("onnx", marks=pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs [onnx]")),
    "openvino", "torchscript", "pt2",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes, a contact channel and a temperature."""
    torch.manual_seed(0)
    # Few layers: converting them takes long.
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 4]}
    card = dataclasses.replace(
        small_card(3), encoder="resnet18", options=options, contact=True, temperature=1.7
    )
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    weights = {name: tensor.numpy() for name, tensor in build_network(card).state_dict().items()}
    save_model(path, weights, card)
    return str(path)


def card_of_shared(kind: str, path: Path) -> Card:
    """The card inside a written network."""
    if kind == "onnx":
        import onnx

        told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        return Card.from_json(told["tilesegment_card"], str(path))
    if kind == "openvino":
        import openvino

        graph = openvino.Core().read_model(path)
        return Card.from_json(str(graph.get_rt_info("tilesegment_card").value), str(path))
    import torch

    extra = {_CARD_FILE: ""}
    if kind == "torchscript":
        torch.jit.load(str(path), _extra_files=extra)  # type: ignore[no-untyped-call]
    else:
        torch.export.load(path, extra_files=extra)
    return Card.from_json(extra[_CARD_FILE], str(path))


def plain(model: str, tile: np.ndarray) -> np.ndarray:
    """Probabilities, computed the plain way."""
    from tilesegment.model.build import load_network

    found = find_model(model)
    with torch.inference_mode():
        logits = load_network(found)(torch.from_numpy(tile[None]))[0, :3] / 1.7
        said: np.ndarray = logits.softmax(dim=0).numpy()
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_formats_say_what_the_model_says(model: str, tmp_path: Path, rng, kind: str) -> None:
    out = tmp_path / f"m{FORMATS[kind]}"
    done = tilesegment.export(model, out, tile=64)
    assert done["format"] == kind
    assert (done["tiles_compared"], done["of"], done["tile"]) == (4, "noise", [64, 64])
    assert done["largest_difference"] < 1e-5
    beside = {"openvino": ["m.bin", "m.xml"]}.get(kind, [out.name])
    assert sorted(path.name for path in tmp_path.iterdir()) == beside
    tile = rng.normal(size=(3, 64, 64)).astype(np.float32)
    found = read_shared(kind, out)(tile)
    assert found.shape == (3, 64, 64)
    np.testing.assert_allclose(found, plain(model, tile), atol=1e-5)
    card = card_of_shared(kind, out)
    assert (card.tile, card.contact, card.probabilities, card.temperature) == ((64, 64), False, True, 1.0)
    assert card.classes == find_model(model).card.classes


def test_every_format_is_named_by_the_command() -> None:
    assert tuple(FORMATS) == _FORMATS


def test_tiles_of_scenes_are_compared(model: str, tmp_path: Path, make_raster, rng) -> None:
    large = make_raster(rng.integers(0, 255, (3, 200, 200)).astype(np.uint8), "large.tif")
    small = make_raster(rng.integers(0, 255, (3, 20, 200)).astype(np.uint8), "small.tif")
    out = tmp_path / "m.pt2"
    done = CliRunner().invoke(
        command, [model, str(large), str(small), "-o", str(out), "--tile", "64", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[0])
    assert (found["tiles_compared"], found["of"]) == (5, "scenes")
    assert "(5 tiles of the scenes)" in done.output
    assert "buildings that touch are one polygon" in done.output


def test_one_that_differs_is_not_written(model: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(story, "read_shared", lambda kind, path: lambda tile: plain(model, tile) + 0.01)
    with pytest.raises(ModelError, match=r"as pt2 its probabilities differ by 0\.01; nothing is written"):
        tilesegment.export(model, tmp_path / "m.pt2", tile=64)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(story, "read_shared", lambda kind, path: lambda tile: tile * np.nan)
    with pytest.raises(ModelError, match="differ by nan"):
        tilesegment.export(model, tmp_path / "m.xml", tile=64)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be(model: str, tmp_path: Path, make_raster, monkeypatch) -> None:
    with pytest.raises(SettingsError, match=r"unknown extension; use one of \.onnx, \.xml, \.pt, \.pt2"):
        tilesegment.export(model, tmp_path / "m.h5")
    with pytest.raises(SettingsError, match=r"OpenVINO's graphs are \.xml files"):
        tilesegment.export(model, tmp_path / "m.onnx", format="openvino")
    with pytest.raises(SettingsError, match="format 'tflite': use one of onnx"):
        tilesegment.export(model, tmp_path / "m.onnx", format="tflite")
    with pytest.raises(SettingsError, match="tile 50 x 50: use multiples of 32"):
        tilesegment.export(model, tmp_path / "m.pt2", tile=50)
    with pytest.raises(InputError, match="no such file"):
        tilesegment.export(model, tmp_path / "m.pt2", tile=64, scenes=[tmp_path / "no.tif"])
    with pytest.raises(OutputError, match="no such folder"):
        tilesegment.export(model, tmp_path / "no" / "m.pt2")
    with pytest.raises(SettingsError, match="two outputs have the same name"):
        tilesegment.export(model, tmp_path / "m.pt2", tile=64, stac=tmp_path / "m.pt2")
    with pytest.raises(SettingsError, match="is the model itself"):
        tilesegment.export(model, model, format="pt2", tile=64, overwrite=True)
    assert find_model(model).card.contact
    (tmp_path / "m.bin").write_text("mine")
    with pytest.raises(ExistsError, match=r"m\.bin: exists already"):
        tilesegment.export(model, tmp_path / "m.xml", tile=64)
    assert (tmp_path / "m.bin").read_text() == "mine"

    def broken(*_: Any) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setitem(sharing._WRITERS, "pt2", broken)
    with pytest.raises(ModelError, match=r"cannot be written as pt2 \(no such operator\)$"):
        tilesegment.export(model, tmp_path / "m.pt2", tile=64)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


class TestStac:
    def test_an_item_of_the_file(self, model: str, tmp_path: Path) -> None:
        (tmp_path / "items").mkdir()
        out, item = tmp_path / "m.pt2", tmp_path / "items" / "m.json"
        done = tilesegment.export(model, out, tile=64, stac=item)
        assert done["outputs"] == [str(out), str(item)]
        found = json.loads(item.read_text())
        asset = found["assets"]["model"]
        assert asset["href"] == "../m.pt2"
        assert asset["file:checksum"] == "1220" + hashlib.sha256(out.read_bytes()).hexdigest()
        assert asset["file:size"] == out.stat().st_size
        assert (asset["mlm:artifact_type"], asset["mlm:compile_method"]) == ("torch.export.save", "aot")
        assert found["properties"]["mlm:total_parameters"] == find_model(model).bytes // 4

    @pytest.mark.parametrize("kind", FORMATS)
    def test_what_the_extension_asks_for(self, kind: str) -> None:
        card = find_model("roofs").card
        item = model_item(card, kind, ["m", "m.bin"], "ab", 5, 7, "tilesegment 1")
        told = item["properties"]
        for name in ("name", "architecture", "tasks", "input", "output"):
            assert told[f"mlm:{name}"]
        assert "mlm:artifact_type" not in told
        assert "mlm:model" in item["assets"]["model"]["roles"]
        assert item["assets"]["weights"]["href"] == "m.bin"
        (given,), (said,) = told["mlm:input"], told["mlm:output"]
        assert given["input"]["shape"] == [-1, 3, *card.tile]
        # In values of the scene, not of 0 to 1.
        assert given["value_scaling"][0]["mean"] == pytest.approx(card.mean[0] * 255)
        assert given["value_scaling"][2]["stddev"] == pytest.approx(card.std[2] * 255)
        assert [entry["name"] for entry in said["classification:classes"]] == ["background", "roof"]
        assert [entry["value"] for entry in said["classification:classes"]] == [0, 1]
        assert said["result"]["shape"] == [-1, 2, *card.tile]
        # Bands are told of where STAC 1.1 has them.
        assert item["stac_version"] == "1.1.0"
        assert [band["name"] for band in told["bands"]] == given["bands"] == list(card.bands)
        assert told["gsd"] == card.gsd
        assert told["tilesegment:credits"] == list(card.credits)
