"""The ledger of a run: `<output>.partial/`, where finished blocks wait until the output is whole.

`run.json` holds the prediction key (what decides a pixel's value) and the block sizes that the first run
chose. A later run with the same key goes on with what is there; with another key it starts afresh and
says why. A lock, held by the operating system for as long as the process lives, keeps a second run out;
one left by a killed run binds nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tilesegment.atomic import lock_file, write_text
from tilesegment.errors import BusyError, OutputError
from tilesegment.run.block.file import BLOCK, POLYGONS, BlockInfo, check_block
from tilesegment.tiling.plan import Block

_STATE = "run.json"
_LOCK = "lock"


@dataclass
class Ledger:
    """An open, locked ledger.

    folder: where the block files are. fixed: the sizes that the first run chose; empty in a new ledger.
    notes: one line for the user where something was found.
    """

    folder: Path
    key: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)
    publishing: bool = False
    notes: list[str] = field(default_factory=list)

    def path(self, block: Block) -> Path:
        """The file of a block."""
        return self.folder / f"{block.name}{BLOCK}"

    def polygons(self, name: str) -> Path:
        """The file of an area's polygons, by the area's name."""
        return self.folder / f"{name}{POLYGONS}"

    def finished(self, blocks: tuple[Block, ...]) -> dict[int, BlockInfo]:
        """The blocks that need no work, by index. Damaged files are removed, to be made again."""
        found = {}
        torn = 0
        for block in blocks:
            path = self.path(block)
            if not path.exists():
                continue
            info = check_block(path)
            if info is None:
                torn += 1
                path.unlink()
            else:
                found[block.index] = info
        if torn:
            self.notes.append(f"{torn} damaged block files were found; these blocks are predicted again")
        if found:
            self.notes.append(f"going on with {len(found)} of {len(blocks)} blocks already predicted")
        return found

    def fix(self, sizes: dict[str, Any]) -> None:
        """Record the sizes that every later run of this ledger must use."""
        self.fixed = sizes
        self._write()

    def begin_publishing(self) -> None:
        """From here on outputs appear under their final names, and are this run's own."""
        self.publishing = True
        self._write()

    def remove(self) -> None:
        """All outputs are complete; nothing of the ledger is needed any more. It loses its name first: a
        run killed here leaves no half of a ledger, which would be taken for an interrupted run's."""
        discarded = _discarded(self.folder)
        try:
            self.folder.rename(discarded)
        except OSError:
            # Windows renames no folder of open files, and one must have the lock in hand.
            discarded = self.folder
        shutil.rmtree(discarded, ignore_errors=True)

    def _write(self) -> None:
        state = {"key": self.key, "fixed": self.fixed, "publishing": self.publishing}
        write_text(self.folder / _STATE, json.dumps(state, indent=1))


def _discarded(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.done")


def ledger_folder(output: Path) -> Path:
    """`<output>.partial`."""
    return output.with_name(output.name + ".partial")


@contextmanager
def open_ledger(output: Path, key: dict[str, Any], resume: bool = True) -> Iterator[Ledger]:
    """The locked ledger of an output, with the blocks of an earlier run if its key was the same.

    Raises BusyError where another run holds it, OutputError where the folder cannot be written.
    """
    folder = ledger_folder(output)
    shutil.rmtree(_discarded(folder), ignore_errors=True)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).is_file():
        raise OutputError(f"{folder}: holds no interrupted run, and is where this one's goes; move it away")
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
    with lock:
        _take(lock, output)
        state = _read_state(folder)
        ledger = Ledger(folder, key)
        changed = None if state is None else _difference(state["key"], key)
        if state is not None and resume and changed is None:
            ledger.fixed, ledger.publishing = state["fixed"], bool(state["publishing"])
        else:
            if changed is not None and resume:
                ledger.notes.append(f"{changed}: starting afresh")
            for ending in (BLOCK, POLYGONS):
                for path in folder.glob(f"*{ending}"):
                    path.unlink()
            (folder / _STATE).unlink(missing_ok=True)
        for ending in (BLOCK, POLYGONS):
            for path in folder.glob(f".*{ending}.*"):
                path.unlink()
        try:
            yield ledger
        except BaseException as error:
            saved = len(list(folder.glob(f"*{BLOCK}")))
            if saved and resume:
                error.add_note(f"{saved} finished blocks are saved: the same command goes on from there")
            raise
        finally:
            # A run that saved nothing leaves nothing.
            if not any(folder.glob(f"*{BLOCK}")):
                shutil.rmtree(folder, ignore_errors=True)


def _take(lock: IO[str], output: Path) -> None:
    try:
        lock_file(lock)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise BusyError(
            f"{output}: another run is writing it ({holder}); wait for it or choose another output"
        ) from error
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()


def _read_state(folder: Path) -> dict[str, Any] | None:
    """The state of an earlier run; None where there is none or it is damaged."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(state, dict) and {"key", "fixed", "publishing"} <= state.keys()
    return state if known else None


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What changed between two keys, in words; None where they are equal."""
    new = json.loads(json.dumps(new))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not changed:
        return None
    name = sorted(changed)[0]
    before, after = str(old.get(name)), str(new.get(name))
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    if len(before) + len(after) > 80:
        return f"{name}{more} changed since the interrupted run"
    return f"{name} changed from {before} to {after}{more} since the interrupted run"
