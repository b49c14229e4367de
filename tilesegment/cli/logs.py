"""Messages to stderr: plain lines for people, JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import click

from tilesegment.errors import without_secrets

_state: dict[str, Any] = {"verbosity": 0, "json": False}
# Seconds between two lines of progress.
_PAUSE = 0.5
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _write(record.levelname.lower(), record.getMessage())


def start(verbosity: int, log_format: str) -> None:
    """Send the package's log to stderr. verbosity: -1 errors only, 0 warnings, 1 and 2 more."""
    _state.update(verbosity=verbosity, json=log_format == "json")
    logger = logging.getLogger("tilesegment")
    logger.handlers = [_Handler()]
    logger.setLevel(_LEVELS[max(-1, min(2, verbosity))])
    logger.propagate = False
    # GDAL's remarks on a file are for those who ask.
    logging.getLogger("rasterio").setLevel(logging.ERROR if verbosity < 2 else logging.INFO)


def verbosity() -> int:
    """As given by -q and -v."""
    return int(_state["verbosity"])


def report_error(message: str) -> None:
    """The one line of a failure."""
    _write("error", message)


def warn(message: str) -> None:
    """A line about what may go wrong, unless -q."""
    if verbosity() >= 0:
        _write("warning", message)


def inform(message: str) -> None:
    """A line about what was done, unless -q."""
    if verbosity() >= 0:
        _write("info", message)


def _write(level: str, message: str) -> None:
    message = without_secrets(message)
    if _state["json"]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        click.echo(json.dumps({"time": stamp, "level": level, "message": message}), err=True)
    else:
        prefix = f"{level}: " if level in ("error", "warning") else ""
        click.echo(prefix + message, err=True)


def _watched() -> bool:
    # There is no stderr at all where the caller closed it.
    return sys.stderr is not None and sys.stderr.isatty()


class ProgressBar:
    """What is done, on stderr, only where somebody watches; call it with (done, total, and perhaps a few
    words). With -v and JSON a line for programs now and then."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = verbosity() >= 0 and not _state["json"] and _watched()
        self._told = verbosity() > 0 and _state["json"]
        self._last = -_PAUSE
        self._bar: Any = None

    def __call__(self, done: int, total: int, words: str = "") -> None:
        """Move the bar."""
        now = time.monotonic()
        if self._told and (done == total or now - self._last >= _PAUSE):
            self._last = now
            line = {"level": "progress", "what": self._label, "done": done, "total": total}
            click.echo(json.dumps({**line, "message": words}), err=True)
        if not self._shown:
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=total, label=self._label, file=sys.stderr, show_pos=True, item_show_func=str
            )
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos, words)
        if done == total:
            self._bar.render_finish()
            self._bar = None
            self._shown = False
