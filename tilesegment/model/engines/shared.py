"""One engine for several blocks that are predicted at the same time, each by a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.engines import Pending, Predictor
from tilesegment.tiling.blend import Blender


class SharedPredictor:
    """A predictor that any number of threads may call: it is given as many calls as keep it busy, in the
    order in which they came, and the others wait.

    fills: batches that are not full are put together, one of several pictures of a tile each. Only where
    the values of a tile do not hang on its neighbours in the batch, or nobody expects the same to the last
    bit: on GPUs.
    """

    def __init__(self, predictor: Predictor, fills: bool = False) -> None:
        self._predictor, self._fills = predictor, fills
        self.name, self.batch, self.depth = predictor.name, predictor.batch, predictor.depth
        self._free = threading.Semaphore(predictor.depth)
        self._waiting: deque[_Part] = deque()
        self._calls = ThreadPoolExecutor(1)

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """See `Predictor`."""
        part = _Part(values, valid)
        self._waiting.append(part)
        self._calls.submit(self._call)
        return part

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        return self._predictor.blender(weights, width, top)

    def _call(self) -> None:
        """Give the predictor what has waited longest, as soon as it is free."""
        self._free.acquire()
        parts = self._next()
        if not parts:
            self._free.release()
            return
        try:
            values, valid = (
                _joined([part.values for part in parts]),
                _joined([part.valid for part in parts]),
            )
            call = _Call(self._predictor.submit(values, valid), len(parts), self._free)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._free.release()
            for part in parts:
                part.call.set_exception(error)
            return
        begin = 0
        for part in parts:
            part.place = slice(begin, begin + len(part.values))
            begin = part.place.stop
            part.call.set_result(call)

    def _next(self) -> list[_Part]:
        """Parts that fit in one batch, and are wanted still; none where an earlier call took them."""
        parts: list[_Part] = []
        while self._waiting:
            part = self._waiting[0]
            filled = sum(len(other.values) for other in parts) + len(part.values)
            if parts and (not self._fills or filled > self.batch):
                break
            self._waiting.popleft()
            # Nobody can take it back from now on.
            if part.call.set_running_or_notify_cancel():
                parts.append(part)
        return parts


class _Part:
    """Tiles of one caller, which go to the predictor alone or beside others': see `Pending`."""

    def __init__(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        self.values, self.valid = values, valid
        self.place = slice(0)
        self.call: Future[_Call] = Future()

    def result(self) -> Any:
        return self.call.result().result()[self.place]

    def cancel(self) -> None:
        if not self.call.cancel() and self.call.exception() is None:
            self.call.result().leave()


class _Call:
    """What the predictor was given once, for several callers: whoever asks first waits for it."""

    def __init__(self, pending: Pending, callers: int, free: threading.Semaphore) -> None:
        self._pending, self._callers, self._free = pending, callers, free
        self._lock = threading.Lock()
        self._found: Any = None
        self._error: BaseException | None = None
        self._asked = False

    def result(self) -> Any:
        with self._lock:
            if not self._asked:
                self._asked = True
                try:
                    self._found = self._pending.result()
                except BaseException as error:  # noqa: BLE001 - for the other callers too
                    self._error = error
                self._free.release()
        if self._error is not None:
            raise self._error
        return self._found

    def leave(self) -> None:
        """A caller does not want it any more."""
        with self._lock:
            self._callers -= 1
            if not self._callers and not self._asked:
                self._asked = True
                self._pending.cancel()
                self._free.release()


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
