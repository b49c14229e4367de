"""The cache of converted models: whole entries only, made by one, bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tilesegment.model import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Writes two files, as OpenVINO does."""

    def __init__(self, size: int = 10) -> None:
        self.calls, self.size = 0, size

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_text("graph")
        path.with_suffix(".bin").write_bytes(b"w" * self.size)


def test_an_entry_is_made_once(folder: Path) -> None:
    make = Maker()
    path = cache.cached("a.xml", make)
    assert cache.cached("a.xml", make) == path == folder / "a.xml"
    assert make.calls == 1
    assert path.read_text() == "graph"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated weights": lambda f: (f / "a.bin").write_bytes(b"w" * 9),
    "other weights": lambda f: (f / "a.bin").write_bytes(b"x" * 10),
    "no weights": lambda f: (f / "a.bin").unlink(),
    "empty graph": lambda f: (f / "a.xml").write_text(""),
    "no graph": lambda f: (f / "a.xml").unlink(),
    "no sums": lambda f: (f / "a.sums").unlink(),
    "empty sums": lambda f: (f / "a.sums").write_text(""),
    "sums of nothing": lambda f: (f / "a.sums").write_text("{}"),
    "no sums but a list": lambda f: (f / "a.sums").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again(folder: Path, damage: str) -> None:
    make = Maker()
    cache.cached("a.xml", make)
    DAMAGES[damage](folder)
    cache.cached("a.xml", make)
    assert make.calls == 2
    assert (folder / "a.bin").read_bytes() == b"w" * 10
    cache.cached("a.xml", make)
    assert make.calls == 2


def test_a_failure_leaves_nothing(folder: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        cache.cached("a.xml", fail)
    assert [path.name for path in folder.iterdir()] == ["lock"]


_SLOW = """
import sys, time
from pathlib import Path
from tilesegment.model.cache import cached
def make(path):
    path.write_text("half")
    Path(sys.argv[1]).touch()
    time.sleep(60)
cached("a.xml", make)
"""


def test_a_killed_process_holds_nobody_up(folder: Path, tmp_path: Path) -> None:
    began = tmp_path / "began"
    process = subprocess.Popen([sys.executable, "-c", _SLOW, str(began)], env=os.environ)
    while not began.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("making-*"))
    begin = time.monotonic()
    make = Maker()
    assert cache.cached("a.xml", make).read_text() == "graph"
    assert time.monotonic() - begin < 5
    assert not list(folder.glob("making-*"))


def test_others_wait_for_the_one_that_makes_it(folder: Path, tmp_path: Path) -> None:
    began = tmp_path / "began"
    quick = _SLOW.replace('"half"', '"whole"').replace("time.sleep(60)", "time.sleep(1)")
    process = subprocess.Popen([sys.executable, "-c", quick, str(began)], env=os.environ)
    while not began.exists():
        time.sleep(0.02)
    make = Maker()
    assert cache.cached("a.xml", make).read_text() == "whole"
    assert make.calls == 0
    assert process.wait() == 0


def test_what_was_not_used_for_longest_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_BYTES", 350)
    for name, age in (("old", 9), ("older", 20), ("young", 5)):
        cache.cached(f"{name}.xml", Maker(100))
        for file in folder.glob(f"{name}.*"):
            os.utime(file, (time.time() - age * 3600,) * 2)
    cache.cached("older.xml", Maker(100))  # used now
    cache.cached("new.xml", Maker(100))
    left = {path.stem for path in folder.glob("*.xml")}
    assert left == {"older", "new"}


def test_what_is_in_use_stays_however_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_BYTES", 1)
    for name in ("a", "b", "c"):
        cache.cached(f"{name}.xml", Maker(100))
    assert {path.stem for path in folder.glob("*.xml")} == {"a", "b", "c"}


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.cache_folder() == tmp_path / "tilesegment"
    assert "no cache there" in caplog.text


def test_the_folder_is_made_with_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "not" / "yet" / "there"))
    assert cache.cache_folder() == tmp_path / "not" / "yet" / "there"
    assert cache.cache_folder().is_dir()
