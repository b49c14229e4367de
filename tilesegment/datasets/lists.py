"""Lists of names in text files, as editors and shells of all systems write them."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import TypeVar

from tilesegment.errors import InputError
from tilesegment.settings import nearest

_Value = TypeVar("_Value")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, without what surrounds it; comments (`#`) are left out.
    UTF-8, or UTF-16 with its mark. Raises InputError."""
    return lines_of(read_text(path))


def lines_of(text: str) -> list[str]:
    """The lines of a list that hold something, without what surrounds it and without comments."""
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a mark or without, or in UTF-16 with one. Raises InputError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return decoded(raw, str(path))


def decoded(raw: bytes, path: str) -> str:
    """The text of a file's bytes; see `read_text`. Raises InputError."""
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not in {encoding}; save it as UTF-8") from error


def composed(text: str) -> str:
    """A name with its accents in one piece (Unicode NFC): some systems store them apart."""
    return unicodedata.normalize("NFC", text)


def find_named(line: str, known: Mapping[str, _Value], path: Path) -> list[_Value]:
    """What a line of a list names: a name, or a path to it with slashes of any kind; or several of them, as
    lists of pictures with their labels have it. known: by composed name. Raises InputError where one is not
    there."""
    for words in ([line], line.split()):
        found = [_find(word, known) for word in words]
        if None not in found:
            return [entry for entry in found if entry is not None]
    raise InputError(f"{path}: names {line!r}, which is not there{nearest(line, known)}")


def _find(word: str, known: Mapping[str, _Value]) -> _Value | None:
    entry = PureWindowsPath(composed(word))
    return next((known[name] for name in (entry.as_posix(), entry.name, entry.stem) if name in known), None)
