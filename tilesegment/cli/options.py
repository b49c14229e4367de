"""Shared options, built from the settings that declare them.

Values come from the command line, then `TILESEGMENT_<NAME>` in the environment, then the `--config`
file, then the defaults of `tilesegment.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from tilesegment.errors import SettingsError
from tilesegment.settings import (
    Measure,
    Option,
    PredictSettings,
    VectorSettings,
    load_yaml,
    numbers,
    options_of,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """A click type from a parsing function that raises SettingsError."""

    def __init__(self, name: str, parse: Callable[[Any], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the parser makes of a value; a usage error where it refuses."""
        try:
            return self._parse(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


class _Names(click.types.StringParamType):
    """Names, of which an environment variable holds several as PATH does."""

    envvar_list_splitter = os.pathsep

    def __init__(self, name: str) -> None:
        self.name = name


def _pair(value: Any) -> tuple[str, str]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return str(value[0]), str(value[1])
    name, separator, text = str(value).partition("=")
    if not separator or not name:
        raise SettingsError(f"{value!r} is not NAME=VALUE")
    return name, text


def option(*flags: str, **attributes: Any) -> Decorator:
    """A click option that also reads `TILESEGMENT_<NAME>`."""
    name = next(flag for flag in flags if flag.startswith("--")).split("/")[0]
    variable = "TILESEGMENT_" + name.removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("envvar", variable)
    return click.option(*flags, **attributes)


def pairs(flag: str, text: str) -> Decorator:
    """A repeatable NAME=VALUE option."""
    return option(flag, multiple=True, type=Parsed("NAME=VALUE", _pair), metavar="NAME=VALUE", help=text)


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, shown in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        # A context's object is another command, for which the file may have been written.
        commands = (ctx.command, ctx.obj) if isinstance(ctx.obj, click.Command) else (ctx.command,)
        names = (p.name for command in commands for p in command.params)
        known = [name for name in names if name and name not in ("config", "help")]
        loaded = load_yaml(value, known)
        for name in ("co", "lco", "gdal"):
            if isinstance(loaded.get(name), dict):
                loaded[name] = [f"{key}={entry}" for key, entry in loaded[name].items()]
        if isinstance(loaded.get("model"), str):
            loaded["model"] = [loaded["model"]]
        if isinstance(loaded.get("max_memory"), int):
            loaded["max_memory"] = str(loaded["max_memory"])
        ctx.default_map = {**(ctx.default_map or {}), **loaded}
    return value


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user set an option, by whatever way."""
    return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def as_yaml(settings: dict[str, Any]) -> str:
    """Settings as a file that `--config` reads."""
    import yaml

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, Measure):
            return str(value)
        if name in ("co", "lco", "gdal"):
            return dict(value)
        return list(value) if isinstance(value, tuple) else value

    return yaml.safe_dump({name: plain(name, value) for name, value in sorted(settings.items())})


def setting(kind: type, name: str) -> Decorator:
    """The option of a setting, as `tilesegment.settings` declares it."""
    declared, hint = options_of(kind)[name], get_type_hints(kind)[name]
    default: Any = getattr(kind, name)
    flag = f"--{name.replace('_', '-')}"
    flags = [flag] if declared.short is None else [declared.short, flag]
    if hint is bool:
        return (
            option(f"{flag}/--no-{flag[2:]}", default=True, help=declared.help)
            if default
            else option(flag, is_flag=True, help=declared.help)
        )
    if hint == tuple[tuple[str, str], ...]:
        return pairs(flag, declared.help)
    attributes: dict[str, Any] = {"help": declared.help, "type": _type_of(declared, hint)}
    if hint == tuple[str, ...]:
        attributes |= {"multiple": True, "metavar": declared.metavar, "default": list(default)}
    elif default is not None:
        attributes["default"] = declared.default or str(default)
    return option(*flags, **attributes, show_default=default is not None)


def _type_of(declared: Option, hint: Any) -> click.ParamType | type:  # type: ignore[type-arg]
    """The type of click for a setting's type."""
    metavar, plain = declared.metavar or "", next((h for h in get_args(hint) if h is not NoneType), hint)
    if declared.choices:
        return click.Choice(declared.choices)
    if declared.parse is not None:
        return Parsed(metavar, _parsing(declared.parse))
    if hint == tuple[str, ...]:
        return _Names(metavar)
    if get_origin(plain) is tuple:
        inner = get_args(plain)
        count = None if inner[-1] is Ellipsis else len(inner)
        return Parsed(metavar, numbers(inner[0], count, declared.help.split(" in ")[0].split(": ")[-1]))
    return plain if isinstance(plain, type) and hint is not plain else str


def _parsing(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A parser of what a configuration file may hold as well: values that are none of text."""

    def parsed(value: Any) -> Any:
        if isinstance(value, Measure):
            return value
        return parse("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))

    return parsed


def group(kind: type, name: str) -> Decorator:
    """The options of a group of settings, in their order."""
    found = [setting(kind, each) for each, declared in options_of(kind).items() if declared.group == name]
    return together(*found)


PRINT_CONFIG = click.option("--print-config", is_flag=True, help="Print the settings as YAML and stop.")
OUTPUT = option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.", envvar=None
)
OVERWRITE = setting(PredictSettings, "overwrite")
RESUME = setting(PredictSettings, "resume")
MODEL_OUTPUT = option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    envvar=None,
    help="Model file to write; without it MODEL itself is changed.",
)
VECTOR = together(group(VectorSettings, ""), setting(PredictSettings, "lco"))
GDAL = setting(PredictSettings, "gdal")
NODATA = setting(PredictSettings, "nodata")
SRC_CRS = setting(PredictSettings, "src_crs")
LOGS = together(
    option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_load_config,
        help="YAML file with these options by name.",
    ),
    option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option("-q", "--quiet", is_flag=True, help="Errors only."),
    click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks."),
)
SCENE = group(PredictSettings, "scene")
RUNNING = group(PredictSettings, "running")
RASTER = group(PredictSettings, "raster")
