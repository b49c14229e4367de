"""What the README shows must exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import tilesegment
from tilesegment.cli.main import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("tilesegment ")]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments)


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:tiling|run|vector|model|tests)/[\w./]*)`", TEXT):
        folder = ROOT if target.startswith("tests") else ROOT / "tilesegment"
        assert (folder / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_python_names_exist() -> None:
    for name in re.findall(r"tilesegment\.(\w+)\(", TEXT):
        assert callable(getattr(tilesegment, name))
    assert set(tilesegment.__all__) <= set(dir(tilesegment))
    with pytest.raises(AttributeError):
        _ = tilesegment.nonsense
