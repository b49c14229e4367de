"""Engines: the same numbers as torch gives for normalised tiles, whatever they compute with."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.test_model import small_card
from tilesegment.errors import BlockFailedError, ModelError, SettingsError
from tilesegment.model import export, store
from tilesegment.model.build import build_network, load_network
from tilesegment.model.engines import Predictor, Setup, choose, load_engine
from tilesegment.model.engines.choose import choose_engine
from tilesegment.model.engines.torch import DeviceAccumulator, TorchPredictor
from tilesegment.model.preprocess import ValueRange, normalise
from tilesegment.model.store import BUNDLED_FOLDER, ModelFile, bundled_models, find_model, save_model
from tilesegment.tiling.blend import FINE_MAX, Accumulator, tile_weights

NEEDS_ONNX = pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnxscript") is None,
    reason="needs the extra tilesegment[onnx]",
)
ENGINES = ["torch", "openvino", pytest.param("onnx", marks=NEEDS_ONNX)]
# Classes, and whether there is a contact channel and a temperature.
NETWORKS = [(1, False), (2, True), (4, True)]


def setup_of(**fields: object) -> Setup:
    values = {"tile": (64, 64), "dtype": "uint8", "range": ValueRange.of_all((0.0, 255.0), 3), "streams": 2}
    return Setup(**{**values, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """One for all processes that share these tests: converting takes longer than anything here."""
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
        patch.setenv("TILESEGMENT_CACHE", str(shared / "engines"))
        yield


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """Networks of one, two and four classes, plain ones, and with a contact channel and a temperature."""
    torch.manual_seed(0)
    classes, more = request.param
    card = dataclasses.replace(small_card(classes), contact=more, temperature=1.7 if more else 1.0)
    network = build_network(card)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(path, {name: tensor.numpy() for name, tensor in network.state_dict().items()}, card)
    return find_model(str(path))


def expected(model: ModelFile, values: np.ndarray, valid: np.ndarray, setup: Setup) -> np.ndarray:
    """Probabilities, computed the plain way."""
    tiles = [normalise(v, m, setup.range, model.card) for v, m in zip(values, valid, strict=True)]
    with torch.inference_mode():
        logits = load_network(model)(torch.from_numpy(np.stack(tiles)))
        assert logits.shape[1] == model.card.outputs
        logits = logits[:, : len(model.card.classes)] / model.card.temperature
        if logits.shape[1] == 1:
            return logits.sigmoid().numpy()
        found = logits.softmax(dim=1).numpy()
    return found[:, 1:] if found.shape[1] == 2 else found


def random_tiles(
    rng: np.random.Generator, count: int, dtype: str = "uint8"
) -> tuple[np.ndarray, np.ndarray]:
    values = rng.integers(0, 255, (count, 3, 64, 64)).astype(dtype)
    return values, rng.random((count, 64, 64)) > 0.2


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *((network, name) for network in NETWORKS for name in ("torch", "openvino")),
        # Conversion takes long, and what follows on it is torch's.
        *(pytest.param(network, "onnx", marks=NEEDS_ONNX) for network in NETWORKS[1:]),
    ],
    indirect=["model"],
)
def test_probabilities_are_those_of_the_network(model: ModelFile, rng, name: str) -> None:
    setup = setup_of(range=ValueRange((10.0, 0.0, 20.0), (200.0, 255.0, 230.0)))
    values, valid = random_tiles(rng, 3)
    predictor = load_engine(name, model, setup)
    found = [predictor.submit(values[k : k + 1], valid[k : k + 1]) for k in range(3)]
    counts = np.concatenate([pending.result() for pending in found])
    assert counts.shape == (3, model.card.channels, 64, 64)
    assert counts.dtype == np.uint16
    np.testing.assert_allclose(counts / FINE_MAX, expected(model, values, valid, setup), atol=2e-4)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("model", [(2, True), (4, True)], indirect=True)
def test_contact_is_one_channel_more(model: ModelFile, rng, name: str) -> None:
    setup = setup_of(contact=True)
    values, valid = random_tiles(rng, 1)
    counts = load_engine(name, model, setup).submit(values, valid).result()
    tile = normalise(values[0], valid[0], setup.range, model.card)
    with torch.inference_mode():
        logits = load_network(model)(torch.from_numpy(tile[None]))
    # The temperature is one of classes.
    contact = logits[:, len(model.card.classes) :].sigmoid().numpy()
    wanted = np.concatenate([expected(model, values, valid, setup), contact], axis=1)
    np.testing.assert_allclose(np.asarray(counts) / FINE_MAX, wanted, atol=2e-4)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "uint32", ">u2"])
def test_values_of_any_type(rng, name: str, dtype: str, tmp_path: Path) -> None:
    model = saved_model(tmp_path)
    values, valid = random_tiles(rng, 1, dtype)
    found = load_engine(name, model, setup_of(dtype=dtype)).submit(values, valid).result()
    plain = load_engine(name, model, setup_of()).submit(values.astype(np.uint8), valid).result()
    assert np.abs(found.astype(int) - plain.astype(int)).max() <= 1


def saved_model(folder: Path) -> ModelFile:
    torch.manual_seed(1)
    network = build_network(small_card())
    path = folder / "m.safetensors"
    save_model(path, {k: t.numpy() for k, t in network.state_dict().items()}, small_card())
    return find_model(str(path))


@pytest.mark.parametrize("name", ENGINES)
def test_a_tile_does_not_depend_on_its_company(rng, name: str, tmp_path: Path) -> None:
    model = saved_model(tmp_path)
    values, valid = random_tiles(rng, 4)
    alone = load_engine(name, model, setup_of(streams=1))
    reference = [alone.submit(values[k : k + 1], valid[k : k + 1]).result()[0] for k in range(4)]
    together = load_engine(name, model, setup_of(batch=4)).submit(values, valid).result()
    # A last batch that is not full.
    part = load_engine(name, model, setup_of(batch=3)).submit(values[:2], valid[:2]).result()
    assert len(part) == 2
    for k in range(4):
        np.testing.assert_array_equal(together[k], reference[k])
    for k in range(2):
        np.testing.assert_array_equal(part[k], reference[k])


@pytest.mark.parametrize("name", ENGINES)
def test_any_tile_size(rng, name: str, tmp_path: Path) -> None:
    predictor = load_engine(name, saved_model(tmp_path), setup_of(tile=(50, 70)))
    values = rng.integers(0, 255, (1, 3, 50, 70), np.uint8)
    assert predictor.submit(values, np.ones((1, 50, 70), np.bool_)).result().shape == (1, 1, 50, 70)


def test_cancelled_requests_can_be_used_again(rng, tmp_path: Path) -> None:
    predictor = load_engine("openvino", saved_model(tmp_path), setup_of())
    values, valid = random_tiles(rng, 1)
    for _ in range(3):
        for pending in [predictor.submit(values, valid) for _ in range(predictor.depth)]:
            pending.cancel()
    assert predictor.submit(values, valid).result().shape == (1, 1, 64, 64)


class TestBundledModel:
    @pytest.mark.parametrize("name", bundled_models())
    def test_its_graph_is_shipped(self, name: str, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path))
        assert export.graph_file(find_model(name), "openvino", (512, 512)).parent == BUNDLED_FOLDER

    def test_classes_agree_with_torch_on_real_tiles(self, data: Path) -> None:
        model = find_model("roofs")
        setup = setup_of(tile=model.card.tile)
        values, valid = real_tiles(data, model.card.tile)
        found = {name: load_engine(name, model, setup) for name in ("torch", "openvino")}
        counts = {name: predicted(engine, values, valid) for name, engine in found.items()}
        roofs = {name: value >= FINE_MAX * model.card.threshold for name, value in counts.items()}
        assert 0.02 < roofs["torch"].mean() < 0.9
        assert (roofs["torch"] == roofs["openvino"]).mean() >= 0.999

    def test_bf16_agrees_with_torch_on_real_tiles(self, data: Path) -> None:
        from tilesegment.model.engines.openvino import native_bf16

        if not native_bf16():
            pytest.skip("this CPU has no native bf16")
        model = find_model("roofs")
        values, valid = real_tiles(data, model.card.tile)
        roofs = [
            predicted(load_engine(name, model, setup), values, valid) >= FINE_MAX * model.card.threshold
            for name, setup in (
                ("torch", setup_of(tile=model.card.tile)),
                ("openvino", setup_of(tile=model.card.tile, precision="bf16")),
            )
        ]
        assert (roofs[0] == roofs[1]).mean() >= 0.995

    def test_predicting_with_a_graph_never_imports_torch(self, data: Path, tmp_path: Path) -> None:
        code = (
            "import sys, tilesegment\n"
            "record = tilesegment.predict(sys.argv[1], sys.argv[2])\n"
            "assert record['engine'][0].startswith('openvino'), record['engine']\n"
            "assert 'torch' not in sys.modules"
        )
        scene = data / "scenes" / "philippines_epsg3857.tif"
        command = [sys.executable, "-c", code, scene, tmp_path / "r.gpkg"]
        done = subprocess.run(
            command, capture_output=True, text=True, env={"PATH": "", "TILESEGMENT_ENGINE": ""}, check=False
        )
        assert done.returncode == 0, done.stderr


def real_tiles(data: Path, tile: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    with rasterio.open(data / "scenes" / "philippines_epsg3857.tif") as dataset:
        picture = dataset.read([1, 2, 3])
    places = [(0, 0), (0, picture.shape[2] - tile[1]), (picture.shape[1] - tile[0], 0)]
    values = np.stack([picture[:, r : r + tile[0], c : c + tile[1]] for r, c in places])
    return values, np.ones((len(values), *tile), np.bool_)


def predicted(engine: Predictor, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    found = [engine.submit(values[k : k + 1], valid[k : k + 1]).result() for k in range(len(values))]
    return np.concatenate(found)


class TestCompiled:
    """A compiled network says what the plain one says."""

    def answers(
        self, model: ModelFile, rng: np.random.Generator, on_device: bool
    ) -> tuple[float, set[int], str]:
        """The largest difference from what the plain network says, in shares; the sizes of its batches; the
        engine's name."""
        tile = (60, 64)
        setup = setup_of(tile=tile, contact=model.card.contact, batch=4)
        values = rng.integers(0, 255, (7, 3, *tile)).astype(np.uint8)
        valid = rng.random((7, *tile)) > 0.2
        plain = TorchPredictor(model, setup)
        compiled = TorchPredictor(model, dataclasses.replace(setup, compiled=True))
        sizes = set()
        run = compiled._probability

        def noted(tiles: torch.Tensor) -> torch.Tensor:
            sizes.add(len(tiles))
            return run(tiles)

        compiled._probability = noted  # type: ignore[method-assign]
        found = []
        for predictor in (plain, compiled):
            # The same steps as on a GPU, on the device that is here.
            work = predictor._on_device if on_device else predictor._on_cpu
            found.append(np.asarray(predictor._pool.submit(work, values, valid).result(), np.int64))
        assert found[0].shape == found[1].shape == (7, found[0].shape[1], *tile)
        assert found[0].std() > 0
        return np.abs(found[0] - found[1]).max() / FINE_MAX, sizes, compiled.name

    @pytest.mark.parametrize("on_device", [False, True])
    def test_traced(
        self, model: ModelFile, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, on_device: bool
    ) -> None:
        real, asked = torch.compile, []

        def compiled(network: torch.nn.Module, **options: object) -> object:
            asked.append(options)
            return real(network, dynamic=False, backend="aot_eager")

        monkeypatch.setattr(torch, "compile", compiled)
        off, sizes, name = self.answers(model, rng, on_device)
        assert off < 1e-3
        # One shape alone: the last batch is filled.
        assert sizes == ({4} if on_device else {1})
        assert name.endswith(" compiled")
        assert asked == [{"dynamic": False, "mode": None}]

    @pytest.mark.slow
    def test_with_a_compiler(self, model: ModelFile, rng: np.random.Generator) -> None:
        off, _, _ = self.answers(model, rng, on_device=False)
        assert off < 1e-3

    def test_without_a_compiler(self, model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
        def compiled(network: torch.nn.Module, **options: object) -> object:
            def run(tiles: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("InvalidCxxCompiler: none of clang, g++\nmore")

            return run

        monkeypatch.setattr(torch, "compile", compiled)
        with pytest.raises(
            SettingsError, match=r"^--compile: .* \(InvalidCxxCompiler: none of clang, g\+\+\)$"
        ):
            TorchPredictor(model, setup_of(compiled=True))

    def test_what_it_is_for(self) -> None:
        assert choose_engine("auto", "auto", "auto", compiled=True).engine == "torch"
        found = choose_engine("torch", "cpu", "fp32", compiled=True)
        # Its values are others in the last bits, and a run that goes on must know.
        assert found.version == f"{choose_engine('torch', 'cpu', 'fp32').version} compiled"
        with pytest.raises(
            SettingsError, match="--compile is for --engine torch; openvino compiles its own"
        ):
            choose_engine("openvino", "cpu", "fp32", compiled=True)


class TestChoice:
    def test_a_cpu_takes_openvino_and_a_gpu_torch(self, monkeypatch) -> None:
        monkeypatch.setattr(choose.sys, "platform", "linux")
        monkeypatch.setattr(choose, "gpu_count", lambda: 0)
        assert choose_engine("auto", "auto", "fp32").engine == "openvino"
        assert choose_engine("auto", "auto", "fp16").engine == "torch"
        monkeypatch.setattr(choose, "gpu_count", lambda: 2)
        assert choose_engine("auto", "auto", "auto").engine == "torch"
        assert choose_engine("auto", "cpu", "fp32").engine == "openvino"
        assert choose_engine("auto", "cuda:1", "auto").device == "cuda:1"

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            (("tensorrt", "auto", "auto"), "--engine 'tensorrt': use one of auto, torch"),
            (("torch", "cpu", "fp8"), "--precision 'fp8'"),
            (("openvino", "cuda", "auto"), "needs --engine torch"),
            (("openvino", "cpu", "fp16"), "fp32 or bf16 or int8, not in fp16"),
        ],
    )
    def test_what_is_not_to_be_had(self, asked: tuple[str, str, str], words: str) -> None:
        with pytest.raises(SettingsError, match=words):
            choose_engine(*asked)

    def test_an_engine_that_is_not_installed(self, monkeypatch) -> None:
        monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: name == "torch" or None)
        with pytest.raises(SettingsError, match=r"pip install 'tilesegment\[onnx\]'"):
            choose_engine("onnx", "cpu", "fp32")
        assert choose_engine("auto", "cpu", "fp32").engine == "torch"

    def test_bf16_only_where_it_is_native(self, monkeypatch) -> None:
        from tilesegment.model.engines import openvino

        for native, precision in ((True, "bf16"), (False, "fp32")):
            monkeypatch.setattr(openvino, "native_bf16", lambda native=native: native)
            assert choose_engine("openvino", "cpu", "auto").precision == precision
        with pytest.raises(SettingsError, match="by emulation only"):
            choose_engine("openvino", "cpu", "bf16")


class TestExport:
    def test_a_model_is_converted_once(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
        model = saved_model(tmp_path)
        path = export.graph_file(model, "openvino", (64, 64))
        monkeypatch.setattr(export, "export_graph", lambda *_: pytest.fail("converted again"))
        assert export.graph_file(model, "openvino", (64, 64)) == path
        names = {path.stem, "lock"}
        assert {p.stem for p in path.parent.iterdir()} == names

    def test_a_network_that_cannot_be_converted(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
        model = saved_model(tmp_path)
        Path(model.path).write_bytes(Path(model.path).read_bytes()[:-1])
        with pytest.raises(ModelError, match="cannot be converted for openvino; use --engine torch"):
            export.graph_file(model, "openvino", (64, 64))
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


class TestDevice:
    """The path of a GPU, on the CPU as its device."""

    @pytest.fixture
    def predictor(self, tmp_path: Path) -> TorchPredictor:
        predictor = TorchPredictor(saved_model(tmp_path), setup_of(batch=4))
        predictor.on_cpu = False
        return predictor

    def test_the_same_numbers_as_on_a_cpu(self, predictor: TorchPredictor, rng, tmp_path: Path) -> None:
        values, valid = random_tiles(rng, 4)
        found = predictor.submit(values, valid).result()
        plain = TorchPredictor(saved_model(tmp_path), setup_of()).submit(values, valid).result()
        assert np.abs(found.numpy() - plain.astype(int)).max() <= 2

    @pytest.mark.parametrize(("channels", "contact"), [(1, False), (5, False), (1, True), (4, True)])
    def test_blending_there_equals_blending_here(self, rng, channels: int, contact: bool) -> None:
        weights = tile_weights((32, 32), 8, "cosine")
        here = Accumulator(weights, channels, 100, 0, contact)
        there = DeviceAccumulator(weights, channels, 100, 0, torch.device("cpu"), contact)
        for top in (24, 48, 80):
            for col in (-5, 19, 43, 72):
                counts = rng.integers(0, FINE_MAX, (channels + contact, 32, 32)).astype(np.uint16)
                here.add(col, counts)
                there.add(col, torch.from_numpy(counts.astype(np.int32)))
            mine, theirs = here.advance(top), there.advance(top)
            assert (mine[2] is not None) == (theirs[2] is not None) == contact
            for one, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(one, other)

    def test_out_of_memory_halves_the_batch(
        self, predictor: TorchPredictor, rng, caplog, monkeypatch
    ) -> None:
        values, valid = random_tiles(rng, 4)
        whole = predictor.submit(values, valid).result()
        network = predictor._network

        def small(batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > 1:
                raise torch.OutOfMemoryError("full")
            return network(batch)

        monkeypatch.setattr(predictor, "_network", small)
        found = predictor.submit(values, valid).result()
        assert predictor.batch == 1
        assert (found - whole).abs().max() <= 2
        assert caplog.text.count("out of memory on cpu") == 2

        def never(batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("full")

        monkeypatch.setattr(predictor, "_network", never)
        with pytest.raises(BlockFailedError, match="one tile does not fit"):
            predictor.submit(values, valid).result()

    def test_devices_that_are_not_there(self, tmp_path: Path) -> None:
        for device in ("cuda:99", "nonsense"):
            with pytest.raises(SettingsError, match="--device"):
                TorchPredictor(saved_model(tmp_path), setup_of(device=device))


def test_weights_in_floats_stay_so_in_the_graph(model: ModelFile, tmp_path) -> None:
    for dtype, half in ((np.float32, False), (np.float16, True)):
        path = tmp_path / f"{np.dtype(dtype).name}.safetensors"
        weights = {name: array.astype(dtype) for name, array in store.read_weights(model).items()}
        save_model(path, weights, model.card)
        assert export.all_half(find_model(str(path))) == half
    mixed = {name: array.astype(np.float16) for name, array in store.read_weights(model).items()}
    first = next(iter(mixed))
    save_model(tmp_path / "m.safetensors", {**mixed, first: mixed[first].astype(np.float32)}, model.card)
    assert not export.all_half(find_model(str(tmp_path / "m.safetensors")))
    graph = export.graph_file(model, "openvino", (64, 64)).read_text()
    assert 'element_type="f32"' in graph
    assert 'element_type="f16"' not in graph
