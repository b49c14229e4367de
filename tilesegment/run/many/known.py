"""The ledger of a folder of outputs: which scenes are done, and what the files looked like then. A command
that comes every ten minutes reads the names of thousands of scenes, and opens only what is new.

It is a shortcut, and nothing hangs on it: what it does not vouch for is looked at as closely as ever, and
without it all is. A scene is vouched for where neither it, nor what lies beside it under its name, nor any
of its outputs has another size or time than when they were looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilesegment.model.engines.choose import version_of
from tilesegment.model.store import find_models
from tilesegment.run.many.one import DONE_BEFORE, Outcome, SceneResult, SceneTask
from tilesegment.run.record import plain_settings
from tilesegment.run.scene.prepare import choose_engine_of
from tilesegment.run.scene.summary import NO_MATTER
from tilesegment.settings import PredictSettings

_NAME = ".tilesegment.jsonl"
# Files that name no others. What GDAL takes beside them begins with their names, but for Pléiades' (IMG_).
_ALONE = (".tif", ".tiff", ".jp2", ".jpg", ".jpeg", ".png", ".webp")
_NOT_ALONE = "IMG_"
# What follows a scene's name in those of the files that belong to it.
_AFTER = "._-"

# Size and time by path.
_Files = dict[str, list[int]]


@dataclass
class FolderLedger:
    """What is known of the scenes whose outputs are in a folder. settings: of the run that asks."""

    folder: Path
    settings: PredictSettings
    _lines: dict[str, Any] = field(default_factory=dict)
    _began: dict[str, _Files | None] = field(default_factory=dict)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._key = _key_of(self.settings)
        self._lines = _read(self.folder / _NAME)

    def knows(self, task: SceneTask) -> bool:
        """Whether a scene need not be opened: its outputs are what a run would write now, or with
        skip_existing are there, as they were."""
        name, inputs = task.entry.name, self._inputs(task)
        self._began[name] = inputs
        line = self._lines.get(name)
        if inputs is None or line is None or line.get("outputs") != _outputs(task):
            return False
        if task.skip_existing:
            return True
        return self.settings.resume and (line.get("key"), line.get("inputs")) == (self._key, inputs)

    def note(self, task: SceneTask, result: SceneResult) -> None:
        """Remember what became of a scene."""
        inputs, outputs = self._inputs(task), _outputs(task)
        done = result.outcome is Outcome.PREDICTED
        # What was changed by hand since is replaced where it may be.
        done |= result.reason == DONE_BEFORE and task.outputs.is_untouched()
        there = result.outcome is Outcome.SKIPPED and not result.busy
        # Not one that was replaced meanwhile.
        if not (done or there) or None in (inputs, outputs) or inputs != self._began.get(task.entry.name):
            return
        line = {"key": self._key if done else "", "inputs": inputs, "outputs": outputs}
        # A folder that cannot be written to has failed the scene already, and a full disk the next one.
        with contextlib.suppress(OSError), (self.folder / _NAME).open("a", encoding="utf-8") as file:
            # A torn line before it stays alone.
            file.write("\n" + json.dumps({"name": task.entry.name, **line}) + "\n")

    def _inputs(self, task: SceneTask) -> _Files | None:
        """The files that a scene is read from; None where they cannot be told without opening it."""
        paths = []
        for source in (task.entry.source, self.settings.aoi):
            if source is None:
                continue
            path = Path(os.path.abspath(source))
            if path.name.startswith(_NOT_ALONE) or not os.path.isfile(path):
                return None
            if source == task.entry.source and path.suffix.lower() not in _ALONE:
                return None
            paths += [path, *self._beside(path)]
        own = {*task.outputs.all, task.outputs.record}
        return _looks([path for path in paths if path not in own])

    def _beside(self, path: Path) -> list[Path]:
        """What lies beside a file under its name."""
        folder = str(path.parent)
        if folder not in self._names:
            try:
                self._names[folder] = sorted(os.listdir(folder))
            except OSError:
                # A folder that nobody may list: GDAL does not either.
                self._names[folder] = []
        names, stem = self._names[folder], path.stem
        after = [name for name in _with_prefix(names, stem) if name[len(stem) : len(stem) + 1] in _AFTER]
        return [path.with_name(name) for name in after if name != path.name]


def _with_prefix(names: Sequence[str], prefix: str) -> Sequence[str]:
    """Of names in order those that begin so."""
    begin = bisect_left(names, prefix)
    end = bisect_left(names, prefix + "\U0010ffff", begin)
    return names[begin:end]


def _outputs(task: SceneTask) -> _Files | None:
    return _looks([path.absolute() for path in (*task.outputs.all, task.outputs.record)])


def _looks(paths: Sequence[Path]) -> _Files | None:
    """Size and time of files; None where one is not there."""
    try:
        stats = {str(path): path.stat() for path in paths}
    except OSError:
        return None
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _key_of(settings: PredictSettings) -> str:
    """Equal for runs that write the same of the same scene."""
    models = find_models(settings.model)
    engine = choose_engine_of(settings, models)
    told = {name: value for name, value in plain_settings(settings).items() if name not in NO_MATTER}
    parts = [
        version_of("tilesegment"),
        told,
        [model.sha256 for model in models],
        engine.version,
        vars(engine),
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """The last line of each scene; torn ones, and what is none of ours, are passed over."""
    found: dict[str, Any] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for written in text.splitlines():
        try:
            line = json.loads(written)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("name"), str):
            found[line.pop("name")] = line
    return found
