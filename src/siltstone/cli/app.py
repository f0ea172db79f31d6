"""The `siltstone` command: one file a command beside this one, each with one function of the file's name.

Importing this file imports no torch, so that help answers at once; the commands import what they need when they run.
Every command is guarded in the same way: an error that a user can cause becomes one line on standard error and exit
code 2, Ctrl-C one line and 130, a reader that closed the pipe 141 and no word; `--debug` shows the trace instead.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from siltstone.errors import SiltstoneError

UsageError: Any = typer.BadParameter.__mro__[1]  # which typer has no name for of its own
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed")
COMMANDS = ("demo", "train", "generate", "stream", "inspect", "doctor", "list", "bench")


class Commands(TyperGroup):
    """The commands, with words on the command line that they do not take turned into one line and exit code 2 as well."""

    def make_context(self, *args: Any, **keys: Any) -> Any:
        with _usage():
            return super().make_context(*args, **keys)

    def invoke(self, ctx: Any) -> Any:
        with _usage(ctx):
            return super().invoke(ctx)


@contextmanager
def _usage(ctx: Any = None) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        said = error.format_message().rstrip(".")
        if found := getattr(error.__cause__, "errors", None):  # such a message leaves out what was given
            said = said.replace("Input should", f"{found()[0]['input']} should")
        where = getattr(error, "ctx", None) or ctx
        path = where.command_path if where else "siltstone"
        path += f" {ctx.invoked_subcommand}" if where is ctx and ctx and ctx.invoked_subcommand else ""
        _say(f"error: {said}{' See' if said.endswith('?') else '; see'} `{path} --help`")
        raise typer.Exit(2) from None


def _say(message: str) -> None:
    print("siltstone: " + " ".join(message.split()), file=sys.stderr)


app = typer.Typer(
    cls=Commands,
    name="siltstone",
    help="Language models whose memory grows slower than their context.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_debug = False


def guarded(command: Callable[..., Any]) -> Callable[..., None]:
    """`command` with its errors turned into one line and an exit code (2 error, 130 Ctrl-C, 141 closed pipe)."""

    @functools.wraps(command)
    def run(*args: Any, **keys: Any) -> None:
        try:
            command(*args, **keys)
        except KeyboardInterrupt:
            if _debug:
                raise
            _say("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stdout = None  # type: ignore[assignment]  # nobody reads it: nothing to flush at exit
            raise typer.Exit(141) from None
        except (SiltstoneError, OSError) as error:
            if _debug:
                raise
            _say(f"error: {error}")
            raise typer.Exit(2) from None
        except (MemoryError, RuntimeError) as error:
            if _debug or not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
                raise
            _say("error: this needs more memory than there is; make the model, its window or the batch smaller")
            raise typer.Exit(2) from None

    return run


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"siltstone {version('siltstone')}")
        except PackageNotFoundError:
            typer.echo("siltstone (not installed: run from its source)")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole trace of an error; allowed after the command too.")
    ] = False,
) -> None:
    """Language models whose memory grows slower than their context."""
    global _debug
    _debug = debug


for _name in COMMANDS:
    app.command(_name)(guarded(getattr(importlib.import_module(f"siltstone.cli.{_name}"), _name)))


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script; `argv` without the program's name (default: the process's own)."""
    args = sys.argv[1:] if argv is None else argv
    words = args.index("--") if "--" in args else len(args)  # after `--` everything is text
    if "--debug" in args[:words]:
        args = ["--debug", *(a for a in args[:words] if a != "--debug"), *args[words:]]
    app(args, prog_name="siltstone")


if __name__ == "__main__":
    main()
