"""Which picture is for training, which for validation, which for the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.datasets.lists import composed, find_named, read_lines
from tilesegment.datasets.sample import SPLITS
from tilesegment.errors import InputError, SettingsError
from tilesegment.settings import nearest


def split(
    names: Sequence[str], places: Sequence[str], setting: Mapping[str, Any], seed: int, where: str
) -> dict[str, list[int]]:
    """The indices of the names by split, ascending in `names`' own order.

    setting: shares that sum to 1 at most (`{train: 0.9, val: 0.05, test: 0.05}`, drawn by `seed`), or for
    val and test the places (folders, or beginnings of names) that go there (`{val: [philippines]}`), or
    files with a name a line (`{train: train.txt, val: val.txt}`).

    Raises SettingsError for another setting, InputError for a name or a place that is not there.
    """
    for key in setting:
        if key not in SPLITS:
            raise SettingsError(f"data.split: unknown key {key!r}{nearest(key, SPLITS)}")
    kinds = {_kind(value) for value in setting.values()}
    if kinds == {"share"}:
        return _by_share(len(names), setting, seed)
    if kinds == {"places"}:
        return _by_place(names, places, setting, where)
    if kinds == {"list"}:
        return _by_list(names, setting, where)
    raise SettingsError(
        "data.split: give shares (0.9), places ([a, b]) or files (train.txt), one kind of them"
    )


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "places"
    return "list" if isinstance(value, str) else "share"


def _by_share(count: int, setting: Mapping[str, Any], seed: int) -> dict[str, list[int]]:
    shares = {name: float(setting.get(name, 0)) for name in SPLITS}
    if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise SettingsError(f"data.split: shares {shares} are negative or sum to more than 1")
    order = np.random.default_rng(seed).permutation(count)
    # At least one picture for whatever is wanted, as long as there are enough.
    most = count - 1
    val = min(most, max(round(count * shares["val"]), 1 if shares["val"] else 0))
    test = min(max(0, most - val), max(round(count * shares["test"]), 1 if shares["test"] else 0))
    cuts = {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}
    return {name: sorted(cuts[name].tolist()) for name in SPLITS}


def _by_place(
    names: Sequence[str], places: Sequence[str], setting: Mapping[str, Any], where: str
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in SPLITS}
    met: set[str] = set()
    for index, (name, place) in enumerate(zip(names, places, strict=True)):
        goes = "rest"
        for part, wanted in setting.items():
            for entry in wanted:
                if place == entry or name.startswith(entry):
                    met.add(entry)
                    goes = part
        if goes == "rest":
            # Training takes what nobody else asked for, unless it was given places of its own.
            if "train" in setting:
                continue
            goes = "train"
        found[goes].append(index)
    for entry in (str(entry) for wanted in setting.values() for entry in wanted):
        if entry not in met:
            raise InputError(f"{where}: nothing there is called {entry!r}{nearest(entry, set(places))}")
    return found


def _by_list(names: Sequence[str], setting: Mapping[str, Any], where: str) -> dict[str, list[int]]:
    at = {composed(name): index for index, name in enumerate(names)}
    found: dict[str, list[int]] = {name: [] for name in SPLITS}
    for part, file in setting.items():
        path = Path(where) / file
        found[part] = [k for line in read_lines(path) for k in find_named(line, at, path)]
    return {name: sorted(set(indices)) for name, indices in found.items()}
