"""Standard error without what libtiff prints by itself where a disk is full: its lines name no file, and
the failure is raised anyway."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_WAIT = 5.0
_OWN = re.compile(rb"^(_tiff\w+Proc|TIFF\w+|_TIFF\w+)\s*: ")


@contextmanager
def without_libtiff() -> Iterator[None]:
    """All that is written to standard error in the body passes through, line by line, but for libtiff's."""
    try:
        kept = os.dup(_STDERR)
    except OSError:
        # There is none: the caller closed it.
        yield
        return
    reading, writing = os.pipe()
    os.dup2(writing, _STDERR)
    os.close(writing)
    pump = threading.Thread(target=_pass_on, args=(reading, kept), daemon=True)
    pump.start()
    try:
        yield
    finally:
        # The pump comes to its end, unless a process that was started meanwhile writes to the pipe still.
        os.dup2(kept, _STDERR)
        pump.join(_WAIT)
        if not pump.is_alive():
            os.close(kept)


def _pass_on(reading: int, target: int) -> None:
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            if not _OWN.match(line):
                os.write(target, line)
