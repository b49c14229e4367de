"""Several looks at each tile, turned and mirrored, by one model or by several: their mean is the answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.engines import Pending, Predictor
from tilesegment.tiling.blend import Blender

# Whether rows and columns change places, then whether rows and columns run the other way.
Turn = tuple[bool, bool, bool]
# Values and validity, as they are submitted.
Tiles = tuple[NDArray[Any], NDArray[np.bool_]]
_FLIPS: tuple[Turn, ...] = tuple((False, rows, cols) for rows in (False, True) for cols in (False, True))


def turns_of(tta: str) -> tuple[Turn, ...]:
    """The turns of test-time augmentation: the tile as it is (`none`), mirrored along its axes (`flips`),
    or all eight symmetries of a square (`d4`, the dihedral group)."""
    if tta == "none":
        return _FLIPS[:1]
    return _FLIPS if tta == "flips" else (*_FLIPS, *((True, rows, cols) for _, rows, cols in _FLIPS))


@dataclass
class _Look:
    """One call of a member; its result goes to the mean of its tiles as soon as it is there."""

    member: Predictor
    turn: Turn
    mean: _Mean
    pending: Pending | None = None

    def finish(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self.mean.add(_back(pending.result(), self.turn))


class SeveralPredictor:
    """The mean of the members' probabilities over all turns of a tile, in the whole steps in which they are
    blended: neither order nor threads can change it.

    Members are of one engine and device, and have the same batch. Turns that swap rows and columns need
    square tiles.
    """

    def __init__(self, members: Sequence[Predictor], turns: Sequence[Turn]) -> None:
        self._members, self._turns = tuple(members), tuple(turns)
        self._under_way: dict[int, deque[_Look]] = {id(member): deque() for member in self._members}
        # Who submits and who waits for a result need not be the same thread.
        self._lock = threading.RLock()
        looks = len(self._members) * len(self._turns)
        self.batch = min(member.batch for member in self._members)
        # Enough that members have work while results are blended.
        self.depth = max(2, -(-max(member.depth for member in self._members) // looks) + 1)
        names = dict.fromkeys(member.name for member in self._members)
        self.name = f"{', '.join(names)}; mean of {looks}"

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """See `Predictor`."""
        mean = _Mean(self)
        try:
            for turn in self._turns:
                turned, mask = _turned(values, turn), _turned(valid, turn)
                for member in self._members:
                    with self._lock:
                        mean.looks.append(self._begun(member, turn, mean, (turned, mask)))
        except BaseException:
            mean.cancel()
            raise
        return mean

    def _begun(self, member: Predictor, turn: Turn, mean: _Mean, tiles: Tiles) -> _Look:
        line = self._under_way[id(member)]
        if len(line) == member.depth:
            line.popleft().finish()
        look = _Look(member, turn, mean)
        look.pending = member.submit(*tiles)
        line.append(look)
        return look

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        return self._members[0].blender(weights, width, top)

    def finish(self, look: _Look) -> None:
        """Have a look's result, and those of its member that were begun before it."""
        with self._lock:
            line = self._under_way[id(look.member)]
            while look.pending is not None:
                line.popleft().finish()

    def forget(self, look: _Look) -> None:
        """Nobody wants a look any more."""
        with self._lock:
            if look.pending is not None:
                self._under_way[id(look.member)].remove(look)
                pending, look.pending = look.pending, None
                pending.cancel()


@dataclass
class _Mean:
    """See `Pending`. total: of the results that are there, in whole steps of at most 1/16256, so that sums
    fit in 32 bits."""

    owner: SeveralPredictor
    looks: list[_Look] = field(default_factory=list)
    total: Any = None

    def add(self, found: Any) -> None:
        part = found.astype(np.int32) if isinstance(found, np.ndarray) else found
        self.total = part if self.total is None else self.total + part

    def result(self) -> Any:
        for look in self.looks:
            self.owner.finish(look)
        mean = (self.total + len(self.looks) // 2) // len(self.looks)
        return mean.astype(np.uint16) if isinstance(mean, np.ndarray) else mean

    def cancel(self) -> None:
        for look in self.looks:
            self.owner.forget(look)


def _turned(tiles: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """Tiles (..., rows, columns), turned."""
    swapped, *flipped = turn
    result = tiles.swapaxes(-1, -2) if swapped else tiles
    axes = tuple(axis for axis, flip in zip((-2, -1), flipped, strict=True) if flip)
    return np.ascontiguousarray(np.flip(result, axes))


def _back(found: Any, turn: Turn) -> Any:
    """Results of turned tiles as those of the tiles; arrays, or tensors of an engine's own."""
    swapped, *flipped = turn
    axes = tuple(axis for axis, flip in zip((-2, -1), flipped, strict=True) if flip)
    if axes:
        found = np.flip(found, axes) if isinstance(found, np.ndarray) else found.flip(axes)
    return found.swapaxes(-1, -2) if swapped else found
