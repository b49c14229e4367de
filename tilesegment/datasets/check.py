"""Verifying a data set before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilesegment.datasets.sample import IGNORE, SPLITS, Reader
from tilesegment.datasets.values import values_of
from tilesegment.errors import InputError

# A class with less than this share of the labelled pixels is named.
_RARE = 0.001


@dataclass
class Findings:
    """errors: what would stop a training. warnings: what may spoil it. pictures: by split; pixels: labelled
    ones by class; ignored: those without a class."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    ignored: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def check(reader: Reader, progress: Callable[[int, int], None] = lambda done, total: None) -> Findings:
    """Read every picture of a data set with its labels: unreadable files, sizes that differ, wrong label
    values, class balance, and pictures that are in more than one split or twice in one (SHA-256 of their
    pixels). progress: is called with (pictures done, pictures in all)."""
    findings = Findings(warnings=list(reader.notes))
    counts = np.zeros(256, np.int64)
    seen: dict[str, tuple[str, str]] = {}
    total = sum(len(reader.names(split)) for split in SPLITS)
    done = 0
    for split in SPLITS:
        names = reader.names(split)
        findings.pictures[split] = len(names)
        for index, name in enumerate(names):
            try:
                sample = reader.read(split, index, np.random.default_rng(index))
            except InputError as error:
                findings.errors.append(str(error))
            else:
                counts += np.bincount(sample.label.ravel(), minlength=256)
                digest = hashlib.sha256(sample.values.tobytes()).hexdigest()
                before = seen.setdefault(digest, (split, name))
                if before != (split, name):
                    _note_twin(findings, before, (split, name))
            done += 1
            progress(done, total)
    _note_balance(findings, reader, counts)
    _note_values(findings, reader)
    for split in ("train", "val"):
        if not findings.pictures[split]:
            findings.errors.append(f"the {split} split is empty")
    return findings


def _note_values(findings: Findings, reader: Reader) -> None:
    try:
        kind, (low, high) = values_of(reader)
    except InputError as error:
        # A picture that cannot be read was named already.
        if str(error) not in findings.errors:
            findings.errors.append(str(error))
        return
    if kind != "uint8":
        findings.warnings.append(
            f"the pictures are {kind}: training maps {low:g} to {high:g} to dark to bright, unless "
            "card.value_range says otherwise"
        )


def _note_twin(findings: Findings, one: tuple[str, str], other: tuple[str, str]) -> None:
    line = f"{other[0]}/{other[1]} is the same picture as {one[0]}/{one[1]}"
    # The same list may stand for two splits on purpose, under the same name.
    if one[0] != other[0] and one[1] != other[1]:
        findings.errors.append(line)
    elif one[0] == other[0] or {one[0], other[0]} != {"val", "test"}:
        findings.warnings.append(line)


def _note_balance(findings: Findings, reader: Reader, counts: np.ndarray[Any, Any]) -> None:
    findings.ignored = int(counts[IGNORE])
    labelled = max(1, int(counts[: len(reader.classes)].sum()))
    for index, entry in enumerate(reader.classes):
        findings.pixels[entry.name] = int(counts[index])
        share = counts[index] / labelled
        if share == 0:
            findings.warnings.append(f"the class {entry.name!r} never occurs")
        elif share < _RARE:
            findings.warnings.append(f"the class {entry.name!r} has {share:.3%} of the labelled pixels")
