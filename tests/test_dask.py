"""Dask workers give what a loop gives. Worker processes load the real bundled model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import psutil
import pytest
import rasterio

import tilesegment
from tilesegment.errors import InputError, SettingsError
from tilesegment.run.block.file import BlockInfo, new_block
from tilesegment.run.scene import executor
from tilesegment.tiling import memory


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Houses on grass: enough for the bundled model to find something."""
    rng = np.random.default_rng(5)
    picture = np.full((700, 900, 3), (96, 110, 70), np.float64) + rng.normal(0, 8, (700, 900, 1))
    for _ in range(40):
        row, col = rng.integers(20, 620), rng.integers(20, 820)
        height, width = rng.integers(40, 75, 2)
        picture[row + 12 : row + height + 12, col + 12 : col + width + 12] *= 0.4
        picture[row : row + height, col : col + width] = (170, 90, 70)
        picture[row : row + height // 2, col : col + width] = (205, 115, 90)
    path = tmp_path_factory.mktemp("dask") / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=3, height=700, width=900, crs="EPSG:32645",
        transform=rasterio.Affine(0.15, 0, 354000, 0, -0.15, 3057000), photometric="RGB",
    ) as dataset:  # fmt: skip
        dataset.write(np.clip(picture, 0, 255).astype(np.uint8).transpose(2, 0, 1))
    return path


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LEAST_BLOCK_PIXELS", 1)
    monkeypatch.setattr(memory, "MOST_WORK", 2.6)
    monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", 100_000)


SETTINGS: dict[str, Any] = {"tile": (192, 192), "overlap": 32}


def result(scene: Path, name: str, **settings: Any) -> tuple[geopandas.GeoDataFrame, np.ndarray, dict]:
    out, mask = scene.parent / f"{name}.gpkg", scene.parent / f"{name}.tif"
    record = tilesegment.predict(scene, out, mask=mask, overwrite=True, **{**SETTINGS, **settings})
    with rasterio.open(mask) as dataset:
        return geopandas.read_file(out), dataset.read(1), record


@pytest.fixture(scope="module")
def reference(scene: Path) -> tuple[geopandas.GeoDataFrame, np.ndarray, dict]:
    found = result(scene, "serial")
    # Split where buildings touch, and regular, as the bundled model's card says.
    assert (found[0]["regularized"] == "yes").sum() > 5
    return found


def same(one: tuple, other: tuple) -> None:
    np.testing.assert_array_equal(one[1], other[1])
    assert one[0].to_wkt().equals(other[0].to_wkt())


def test_blocks_do_not_matter_with_a_real_network(scene, reference, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", 10**9)
    monkeypatch.setattr(memory, "MOST_WORK", 1.3)
    other = result(scene, "other")
    assert other[2]["counts"]["blocks"] != reference[2]["counts"]["blocks"]
    same(other, reference)


def test_two_workers_and_the_parent_without_torch(scene: Path, reference, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nimport tilesegment\n"
        "from tilesegment.tiling import memory\n"
        "if __name__ == '__main__':\n"
        "    memory.LEAST_BLOCK_PIXELS, memory.MOST_WORK, memory.MOST_BLOCK_PIXELS = 1, 2.6, 100_000\n"
        "    r = tilesegment.predict(sys.argv[1], sys.argv[2], mask=sys.argv[3], tile=(192, 192),\n"
        "                            overlap=32, workers=2)\n"
        "    assert r['counts']['blocks'] > 4, r['counts']\n"
        "    print('torch' in sys.modules)\n"
    )
    out, mask = tmp_path / "r.gpkg", tmp_path / "m.tif"
    done = subprocess.run(
        [sys.executable, script, scene, out, mask], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
    with rasterio.open(mask) as dataset:
        same((geopandas.read_file(out), dataset.read(1)), reference)


def start_dask(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_running_scheduler_one_of_whose_workers_is_killed(scene: Path, reference, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    processes = [
        start_dask(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )
    ]  # fmt: skip
    try:
        for name in ("a", "b"):
            processes.append(
                start_dask(
                    "dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--name", name,
                    "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path),
                )
            )  # fmt: skip
        address = wait_for(lambda: scheduler_address(file, workers=2))
        blocks = scene.parent / "joined.gpkg.partial"

        def kill() -> None:
            # Half-way: as soon as some block has been saved.
            wait_for(lambda: len(list(blocks.glob("*.block"))) >= 2)
            processes[1].send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = result(scene, "joined", scheduler=address)
        killer.join()
        assert processes[1].wait(10) == -signal.SIGKILL
        same(found, reference)
    finally:
        for process in reversed(processes):
            if psutil.pid_exists(process.pid):
                process.terminate()
            process.wait(20)


def wait_for(question: Any) -> Any:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("waited too long")


def scheduler_address(file: Path, workers: int) -> str | None:
    import json

    from distributed import Client

    if not file.exists() or not file.read_text():
        return None
    address: str = json.loads(file.read_text())["address"]
    with Client(address, timeout="5s", set_as_default=False) as client:
        return address if len(client.scheduler_info(n_workers=-1)["workers"]) == workers else None


def test_a_scheduler_that_is_not_there(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no scheduler answers"):
        tilesegment.predict(scene, tmp_path / "r.gpkg", scheduler="tcp://127.0.0.1:1")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "tcp://host", "http://host:80", "host:port", "", "a b:1"]
)
def test_what_is_no_address_is_said_at_once(scene: Path, tmp_path: Path, address: str) -> None:
    begin = time.monotonic()
    with pytest.raises(SettingsError, match="is no address"):
        tilesegment.predict(scene, tmp_path / "r.gpkg", scheduler=address)
    assert time.monotonic() - begin < 5
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "node-7:8786", "tls://[::1]:8786"])
def test_addresses(address: str) -> None:
    executor.Executor(scheduler=address)


def test_paths_and_errors_on_workers_elsewhere(
    scene: Path, reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers started in another folder find what was named relative to ours, and what they cannot find
    comes back as one line that names the path."""
    file, elsewhere, here = tmp_path / "scheduler.json", tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    (here / "scene.tif").write_bytes(scene.read_bytes())
    monkeypatch.chdir(elsewhere)
    processes = [
        start_dask(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        ),
        start_dask(
            "dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard",
        ),
    ]  # fmt: skip
    try:
        address = wait_for(lambda: scheduler_address(file, workers=1))
        monkeypatch.chdir(here)
        out = Path("r.gpkg")
        tilesegment.predict(Path("scene.tif"), out, mask=Path("m.tif"), scheduler=address, **SETTINGS)
        with rasterio.open("m.tif") as dataset:
            same((geopandas.read_file(out), dataset.read(1)), reference)
        # A scene that this process alone can see: its file goes once it was looked at.
        real = executor._absolute

        def gone(task: Any) -> Any:
            found = real(task)
            Path("scene.tif").unlink(missing_ok=True)
            return found

        monkeypatch.setattr(executor, "_absolute", gone)
        with pytest.raises(InputError, match=r"here/scene\.tif: no such file \(worker tcp:"):
            tilesegment.predict(Path("scene.tif"), out, scheduler=address, overwrite=True, **SETTINGS)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)


def test_a_full_disk_under_workers_is_one_line(scene: Path, tmp_path: Path) -> None:
    """The disk is played by the largest size that files may have. Another run has Dask's usual port."""
    taken = socket.socket()
    with contextlib.suppress(OSError):
        taken.bind(("127.0.0.1", 8787))
        taken.listen()
    done = subprocess.run(
        [
            "bash", "-c",
            f"ulimit -f 8; exec {sys.executable} -m tilesegment predict {scene} -o {tmp_path}/r.tif "
            "--workers 2",
        ],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "cannot save a block (File too large); free the disk" in lines[0]
    taken.close()
    assert not (tmp_path / "r.tif").exists()


class TestSpread:
    """Many scenes on workers: each is done as if it were alone, whole on one or in blocks on all."""

    @pytest.fixture
    def scenes(self, scene: Path, tmp_path: Path) -> list[str]:
        """Four parts of the scene, the last of them broken, and the scene itself, which has 20 tiles."""
        folder = tmp_path / "scenes"
        folder.mkdir()
        with rasterio.open(scene) as whole:
            for k in range(3):
                window = rasterio.windows.Window(k * 250, k * 100, 300, 300)
                profile = whole.profile | {
                    "height": 300, "width": 300, "transform": whole.window_transform(window),
                }  # fmt: skip
                with rasterio.open(folder / f"{k}.tif", "w", **profile) as part:
                    part.write(whole.read(window=window))
        (folder / "3.tif").write_bytes(b"II*\0 nothing")
        return [*(str(path) for path in sorted(folder.iterdir())), str(scene)]

    def test_results_are_those_of_one_after_the_other(
        self, scenes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
    ) -> None:
        from tilesegment.run.many import spread

        monkeypatch.setattr(spread, "_MOST_TILES", 15)
        serial = list(tilesegment.predict_many(scenes, tmp_path / "serial", **SETTINGS))
        said = sorted(caplog.messages)
        caplog.clear()
        found = list(tilesegment.predict_many(scenes, tmp_path / "out", workers=2, **SETTINGS))
        assert sorted(caplog.messages) == said
        assert [result.source for result in found] == scenes
        assert [result.outcome for result in found] == [result.outcome for result in serial]
        assert found[3].outcome == "failed"
        assert found[3].reason == serial[3].reason
        total = 0
        for one, other in zip(serial, found, strict=True):
            if one.outcome == "failed":
                continue
            total += len(one.polygons())
            assert one.polygons().to_wkt().equals(other.polygons().to_wkt())
            assert other.record is not None
            assert other.record["outputs"] == [str(other.outputs.main)]
        assert total > 20
        # The whole scene had too many tiles for one worker.
        assert found[4].record is not None
        assert found[4].record["counts"]["blocks"] > 1
        again = list(tilesegment.predict_many(scenes, tmp_path / "out", workers=2, **SETTINGS))
        assert [result.outcome for result in again] == ["skipped"] * 3 + ["failed", "skipped"]

    def test_on_several_gpus_each_worker_takes_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from types import SimpleNamespace

        asked: list[int] = []
        monkeypatch.setattr(executor, "predict_block", lambda task, index, tick: asked.append(index))
        block = SimpleNamespace(name="b", window=None)
        task: Any = SimpleNamespace(job=SimpleNamespace(polygons_key=None), block=block, path="x/b.block")
        for name in (0, 3, "tcp://elsewhere"):
            monkeypatch.setattr("distributed.get_worker", lambda name=name: SimpleNamespace(name=name))
            list(executor.on_this_worker().predict([task], lambda: None))
        assert asked == [0, 3, 0]

    def test_a_block_is_predicted_once_though_its_worker_dies_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from types import SimpleNamespace

        path, calls = tmp_path / "b.block", []
        info = BlockInfo("b", 1, 1, "fake", "key", 1, 0, 1, None, {})

        def predict(task: Any, index: int) -> BlockInfo:
            calls.append("predict")
            with new_block(path) as file:
                file.info(info)
            return info

        def polygons(job: Any, area: Any, folder: Path) -> None:
            calls.append("polygons")
            if calls.count("polygons") == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(executor, "predict_block", predict)
        monkeypatch.setattr(executor, "make_polygons", polygons)
        monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=0, address="here"))
        task: Any = SimpleNamespace(job=None, block=SimpleNamespace(name="b", window=None), path=str(path))
        with pytest.raises(KeyboardInterrupt):
            executor._on_worker(task)
        assert executor._on_worker(task) == info
        assert calls == ["predict", "polygons", "polygons"]
        # A torn one is no block.
        path.write_bytes(path.read_bytes()[:-9])
        assert executor._on_worker(task) == info
        assert calls[3:] == ["predict", "polygons"]

    def test_relative_paths_and_few_scenes(
        self, scenes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tilesegment.run.many import folder
        from tilesegment.run.many.spread import is_spread
        from tilesegment.settings import PredictSettings

        monkeypatch.chdir(tmp_path)
        words = [f"scenes/{k}.tif" for k in (0, 1, 2, 3)]
        found = list(tilesegment.predict_many(words, "out", workers=2, **SETTINGS))
        assert [str(result.outcome) for result in found] == ["predicted"] * 3 + ["failed"]
        assert (tmp_path / "out/2.gpkg").is_file()
        monkeypatch.setattr(folder, "on_workers", None)
        # Two workers share three scenes by their blocks.
        assert not is_spread(PredictSettings(workers=2), 3)
        assert is_spread(PredictSettings(workers=2), 4)
        assert not is_spread(PredictSettings(workers=1), 9)
        assert not is_spread(PredictSettings(scheduler="tcp://a:1"), 9)
