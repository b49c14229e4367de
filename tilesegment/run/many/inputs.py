"""Which scenes a command of several names: files, folders, patterns, lists."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from tilesegment.datasets.lists import decoded, lines_of, read_lines
from tilesegment.errors import InputError, SettingsError, without_secrets
from tilesegment.raster.sink import is_raster
from tilesegment.vector.files import ending_of, is_vector

# What is taken for a scene in a folder; files of other kinds are named one by one, or by a pattern.
RASTERS = (
    *(".tif", ".tiff", ".vrt", ".jp2", ".img", ".ecw", ".sid"),
    *(".jpg", ".jpeg", ".png", ".webp"),
)
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Entry:
    """source: anything GDAL opens; name: that its outputs have below their folder, without an ending."""

    source: str
    name: str


def is_mosaic(name: str) -> bool:
    """Whether a file is a VRT of sheets that a run wrote beside its output."""
    return re.search(r"\.sheets-[0-9a-f]{8}\.vrt$", name) is not None


def is_several(words: Sequence[str], output: str) -> bool:
    """Whether a command is of several scenes: more than one word, a pattern, a list or the standard input;
    or an output that is a folder, or is written as one (`roofs/`). A folder alone may be a raster to GDAL,
    so that with an output that is a file it is one scene.

    Raises SettingsError where several scenes have one file to go to.
    """
    is_file = is_vector(output) or is_raster(Path(output))
    is_folder = os.path.isdir(output) or output.endswith(("/", os.sep))
    is_folder |= os.path.isdir(words[0]) and not is_file
    several = len(words) > 1 or any(
        word == STANDARD_INPUT or _is_list(word) or _is_pattern(word) for word in words
    )
    if several and not is_folder and is_file:
        ending = ending_of(output)[1:]
        folder = output[: -len(ending) - 1]
        ending = "tif" if ending == "tiff" else ending
        raise SettingsError(
            f"-o {output}: several scenes are written to a folder: -o {folder}/ --format {ending}"
        )
    return several or is_folder


def entries_of(words: Sequence[str], read_input: Callable[[], bytes]) -> list[Entry]:
    """The scenes that words name, in their order, each once. A word is a file or anything else that GDAL
    opens; a folder, for the rasters in it; a pattern (`*`, `?`, `[...]`, and `**` for folders of folders);
    `@` and a file that lists such words, a line each; `-` for such lines from read_input.

    Raises InputError where nothing is there, SettingsError where outputs of two would have one name.
    """
    found: dict[str, Entry] = {}
    for entry in _entries(words, read_input):
        other = found.setdefault(os.path.normcase(entry.name), entry)
        if other.source != entry.source:
            raise SettingsError(
                f"{other.source} and {entry.source} would both be written as {entry.name}; give them in "
                "commands of their own, or by a pattern such as 'scenes/**/*.tif', which keeps folders"
            )
    return list(found.values())


def sources_of(words: Sequence[str], read_input: Callable[[], bytes]) -> list[str]:
    """As `entries_of`, for scenes that have no outputs of their own. Raises InputError."""
    return list(dict.fromkeys(entry.source for entry in _entries(words, read_input)))


def _entries(words: Sequence[str], read_input: Callable[[], bytes]) -> Iterator[Entry]:
    for word in words:
        for line in _lines(word, read_input):
            yield from _expanded(line)


def _lines(word: str, read_input: Callable[[], bytes]) -> list[str]:
    if word == STANDARD_INPUT:
        return lines_of(decoded(read_input(), "standard input"))
    return read_lines(Path(word[1:])) if _is_list(word) else [word]


def _expanded(word: str) -> Iterator[Entry]:
    if os.path.isdir(word):
        for path in sorted(Path(word).iterdir()):
            # Names with a dot are hidden, and temporary ones of ours begin with one.
            if path.suffix.lower() not in RASTERS or path.name.startswith(".") or is_mosaic(path.name):
                continue
            if path.is_file():
                yield Entry(str(path), path.stem)
    elif _is_pattern(word):
        matches = sorted(
            path for path in glob.glob(word, recursive=True) if os.path.isfile(path) and not is_mosaic(path)
        )
        if not matches:
            raise InputError(f"{word}: no file is named so")
        base = _fixed_part(word)
        for match in matches:
            yield Entry(match, PurePath(os.path.relpath(match, base)).with_suffix("").as_posix())
    else:
        yield Entry(word, _name_of(word))


def _is_list(word: str) -> bool:
    return word.startswith("@") and not os.path.exists(word)


def _is_pattern(word: str) -> bool:
    is_path = "://" not in word and not word.startswith("/vsi")
    return is_path and glob.has_magic(word) and not os.path.exists(word)


def _fixed_part(pattern: str) -> str:
    """The folder above the first part that is a pattern."""
    parts = PurePath(pattern).parts
    fixed = parts[: next(k for k, part in enumerate(parts) if glob.has_magic(part))]
    return os.path.join(*fixed) if fixed else "."


def _name_of(source: str) -> str:
    """A file's stem; of an address, the last part of its path."""
    last = re.split(r"[/\\!]", without_secrets(source).rstrip("/\\"))[-1]
    return PurePath(re.sub(r'[<>:"|?*]', "_", last)).stem
