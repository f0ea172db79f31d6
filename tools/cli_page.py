"""Writes docs/cli.md from the command line's own definitions; `--check` only reports whether the page is up to date."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import typer

from siltstone.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# The commands

Made by `make docs` from the commands themselves; do not edit. Errors that a user can cause are one line on standard error and
exit code 2, a signal is one line and 128 + its number (Ctrl-C 130), a reader that goes away 141; `--debug` shows the trace.
"""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD]
    for name in group.commands:
        parts.append(_command(name, group.commands[name]))
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    usage = " ".join(["siltstone", name, *(["[OPTIONS]"] if options else []), *(_argument(p) for p in arguments)])
    out = [f"## {name}", "", f"`{usage}`", "", *(line.strip() for line in (command.help or "").strip().splitlines()), ""]
    if shown:
        out += ["| | | default |", "|---|---|---|"]
        out += [f"| `{_argument(p)}` | {_text(p.help)} |  |" for p in arguments]
        out += [_option(p) for p in options]
        out.append("")
    return "\n".join(out)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name += "…" if parameter.nargs == -1 or getattr(parameter, "multiple", False) else ""
    return name if parameter.required else f"[{name}]"


def _names(parameter: Any) -> str:
    metavar = f" {parameter.metavar}" if parameter.metavar else ""
    return ", ".join(f"`{name}{metavar}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _option(parameter: Any) -> str:
    """A row: names, help, and the default, which some options give at the end of their help."""
    found = re.fullmatch(r"(.*?)\s*\[default: (.*)\]", _text(parameter.help))
    text, default = found.groups() if found else (_text(parameter.help), _default(parameter))
    return f"| {_names(parameter)} | {text} | {default} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value is None or value is False or callable(value) or parameter.required else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text("utf-8") != page():
            sys.exit(f"{PAGE} does not match the commands; run `make docs`")
    else:
        PAGE.write_text(page(), "utf-8")
