"""The `siltstone` command: each command is one file in this folder, with one function of the same name (`import_` for `import`).

Importing this file does not import torch, so that help is shown at once; a command imports what it needs when it runs.
Every command runs under `guard.py`: an error that a user can cause becomes one line on standard error and exit code 2, a signal
becomes one line and exit code 128 + its number; `--debug` shows the trace instead.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from siltstone.cli import guard
from siltstone.cli.guard import guarded
from siltstone.core.terminal import say

UsageError: Any = typer.BadParameter.__mro__[1]  # typer does not export this class
COMMANDS = tuple("demo train generate chat ask stream serve inspect doctor list bench eval lab compare import export".split())


class Commands(TyperGroup):
    """The group of commands; invalid arguments also give one line and exit code 2."""

    def make_context(self, *args: Any, **keys: Any) -> Any:
        with _usage():
            return super().make_context(*args, **keys)

    def invoke(self, ctx: Any) -> Any:
        with _usage(ctx):
            return super().invoke(ctx)


@contextmanager
def _usage(ctx: Any = None) -> Iterator[None]:
    try:
        with guard.guard():  # typer would exit with 130 for any signal
            yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        said = error.format_message().rstrip(".")
        if found := getattr(error.__cause__, "errors", None):  # pydantic's message lacks the given value
            said = said.replace("Input should", f"{found()[0]['input']} should")
        where = getattr(error, "ctx", None) or ctx
        path = where.command_path if where else "siltstone"
        path += f" {ctx.invoked_subcommand}" if where is ctx and ctx and ctx.invoked_subcommand else ""
        say(f"error: {said}{' See' if said.endswith('?') else '; see'} `{path} --help`")
        raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    name="siltstone",
    help="Language models whose memory grows slower than their context.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
        bool, typer.Option("--debug", help="Show the full trace of an error; also allowed after the command.")
    ] = False,
) -> None:
    """Language models whose memory grows slower than their context."""
    guard.debug = debug


for _name in COMMANDS:
    _word = f"{_name}_" if iskeyword(_name) else _name
    app.command(_name)(guarded(getattr(importlib.import_module(f"siltstone.cli.{_word}"), _word)))


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script. argv: the arguments without the program's name (default: those of the process)."""
    args = sys.argv[1:] if argv is None else argv
    words = args.index("--") if "--" in args else len(args)  # after `--` there are no options
    if "--debug" in args[:words]:
        args = ["--debug", *(a for a in args[:words] if a != "--debug"), *args[words:]]
    with guard.guard():
        app(args, prog_name="siltstone")


if __name__ == "__main__":
    main()
