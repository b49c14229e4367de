"""The command `tilesegment`: finds its commands lazily and turns every outcome into an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from itertools import pairwise
from types import FrameType
from typing import Any, NoReturn

import click

from tilesegment.errors import SettingsError, TilesegmentError, missing_extra
from tilesegment.settings import nearest

# Help shows these lines without importing the commands.
_COMMANDS = {
    "calibrate": "Measure the overlap that a model needs, and store it in its card.",
    "check": "Verify a labelled data set before training.",
    "doctor": "Look whether this machine can do the work, and say what helps.",
    "evaluate": "Measure how good a prediction or a model is.",
    "export": "Write a model for another program: ONNX, OpenVINO, TorchScript, pt2.",
    "info": "Show what a scene is, and what predicting it would take.",
    "models": "List the bundled models, or show a model's card.",
    "quantize": "Give a model a graph in int8, which CPUs compute two to three times as fast.",
    "predict": "Predict a scene: roof polygons, class mask, probability, overlay.",
    "train": "Train a model from a configuration.",
    "vectorize": "Trace any class raster to polygons.",
}
_PREFIX = "TILESEGMENT_"
# Read elsewhere: where converted models are kept, and by the tests.
_OTHER_VARIABLES = ("TILESEGMENT_CACHE", "TILESEGMENT_DATA", "TILESEGMENT_REQUIRE_DATA")
_SIGTERM_EXIT = 143
_terminated = False
_SIGINT_EXIT = 130


class Terminated(BaseException):
    """The process was asked to stop; finished blocks are saved already."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"tilesegment.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tilesegment", prog_name="tilesegment")
def cli() -> None:
    """Roof polygons and class masks from huge images."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 all done, 1 failure, 2 usage, 3 some of several scenes failed,
    130/143 stopped by a signal."""
    signal.signal(signal.SIGTERM, _terminate)
    # The libraries' copies of GDAL print warnings by themselves; what they fail in is raised.
    os.environ.setdefault("CPL_LOG", os.devnull)
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        _check_environment()
        # Click hands an exit code on that a command gave.
        code = cli.main(args=arguments, prog_name="tilesegment", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _show_usage(error, sys.argv[1:] if arguments is None else arguments)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        return _stopped(_SIGINT_EXIT, error)
    except Terminated as error:
        return _stopped(_SIGTERM_EXIT, error)
    except TilesegmentError as error:
        if _terminated:
            # Processes of ours were stopped too, and one of them was noticed first.
            return _stopped(_SIGTERM_EXIT, error)
        _say(str(error))
        return 2 if isinstance(error, SettingsError) else 1
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            return _internal(error)
        _say(str(missing))
        return 1
    except MemoryError:
        _say("out of memory; run the same command again with a smaller --max-memory")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            return _internal(error)
        _say("standard output cannot be written (No space left on device)")
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, not a traceback
        return _internal(error)
    return code if isinstance(code, int) else 0


def _internal(error: Exception) -> int:
    _say(f"internal error: {type(error).__name__}: {' '.join(str(error).split())} (-vv shows where)")
    return 1


def _check_environment() -> None:
    """Raises SettingsError for a variable of ours that no command reads: a mistyped one would pass."""
    given = [name for name in os.environ if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES]
    if not given:
        return
    known = set(_OTHER_VARIABLES)
    for name in _COMMANDS:
        for parameter in importlib.import_module(f"tilesegment.cli.{name}").command.params:
            known.update([parameter.envvar] if isinstance(parameter.envvar, str) else [])
    for name in given:
        if name not in known:
            raise SettingsError(f"the environment has {name}, which no command reads{nearest(name, known)}")


def _say(message: str) -> None:
    from tilesegment.cli.logs import report_error, verbosity

    report_error(" ".join(message.split()))
    if verbosity() >= 2:
        traceback.print_exc()


def _stopped(code: int, error: BaseException) -> int:
    # Click puts an exception of its own in the place of an interrupt.
    _say("; ".join(["stopped", *getattr(error.__cause__ or error, "__notes__", [])]))
    return code


def _show_usage(error: click.ClickException, arguments: list[str]) -> None:
    """A usage error, before any option is known to be right: one line where lines were asked for."""
    from tilesegment.cli import logs

    as_json = "--log-format=json" in arguments or ("--log-format", "json") in pairwise(arguments)
    if as_json or os.environ.get("TILESEGMENT_LOG_FORMAT") == "json":
        logs.start(0, "json")
    elif not {"-q", "--quiet"} & set(arguments):
        error.show()
        return
    _say(error.format_message())


def _terminate(number: int, frame: FrameType | None) -> Any:
    global _terminated
    if _terminated:
        # It is stopping; asked again it would be torn out of saying so.
        return
    _terminated = True
    raise Terminated
