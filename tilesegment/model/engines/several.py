"""Several looks at each tile, turned and mirrored, by one model or by several: their mean is the answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.engines import Pending, Predictor
from tilesegment.tiling.blend import Blender

# Whether rows and columns change places, then whether rows and columns run the other way.
Turn = tuple[bool, bool, bool]
TTA = ("none", "flips", "d4")
_FLIPS: tuple[Turn, ...] = tuple((False, rows, cols) for rows in (False, True) for cols in (False, True))


def turns_of(tta: str) -> tuple[Turn, ...]:
    """The turns of test-time augmentation: the tile as it is (`none`), mirrored along its axes (`flips`),
    or all eight symmetries of a square (`d4`, the dihedral group)."""
    if tta == "none":
        return _FLIPS[:1]
    return _FLIPS if tta == "flips" else (*_FLIPS, *((True, rows, cols) for _, rows, cols in _FLIPS))


@dataclass
class _Look:
    """One call of a member, and its result once it is there."""

    member: Predictor
    turn: Turn
    pending: Pending | None = None
    found: Any = None

    def finish(self) -> None:
        if self.pending is not None:
            self.found, self.pending = _back(self.pending.result(), self.turn), None


class SeveralPredictor:
    """The mean of the members' probabilities over all turns of a tile, in the whole steps in which they are
    blended: neither order nor threads can change it.

    Members are of one engine and device, and have the same batch. Turns that swap rows and columns need
    square tiles.
    """

    def __init__(self, members: Sequence[Predictor], turns: Sequence[Turn]) -> None:
        self._members, self._turns = tuple(members), tuple(turns)
        self._under_way: dict[int, deque[_Look]] = {id(member): deque() for member in self._members}
        looks = len(self._members) * len(self._turns)
        self.batch = min(member.batch for member in self._members)
        # Enough that members have work while results are blended.
        self.depth = max(2, -(-max(member.depth for member in self._members) // looks) + 1)
        names = dict.fromkeys(member.name for member in self._members)
        self.name = f"{', '.join(names)}; mean of {looks}"

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """See `Predictor`."""
        looks = []
        for turn in self._turns:
            turned, mask = _turned(values, turn), _turned(valid, turn)
            for member in self._members:
                line = self._under_way[id(member)]
                if len(line) == member.depth:
                    line.popleft().finish()
                look = _Look(member, turn, member.submit(turned, mask))
                line.append(look)
                looks.append(look)
        return _Mean(self, looks)

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        return self._members[0].blender(weights, width, top)

    def finish(self, look: _Look) -> None:
        """Have a look's result, and those of its member that were begun before it."""
        line = self._under_way[id(look.member)]
        while look.pending is not None:
            line.popleft().finish()

    def forget(self, look: _Look) -> None:
        """Nobody wants a look any more."""
        if look.pending is not None:
            self._under_way[id(look.member)].remove(look)
            look.pending.cancel()
            look.pending = None


@dataclass(frozen=True)
class _Mean:
    """See `Pending`."""

    owner: SeveralPredictor
    looks: list[_Look]

    def result(self) -> Any:
        total: Any = None
        for look in self.looks:
            self.owner.finish(look)
            # Whole steps of at most 1/16256: their sums fit in 32 bits.
            part = look.found.astype(np.int32) if isinstance(look.found, np.ndarray) else look.found
            total = part if total is None else total + part
            look.found = None
        mean = (total + len(self.looks) // 2) // len(self.looks)
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
