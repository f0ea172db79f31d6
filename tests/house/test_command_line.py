"""The command line as a whole: quick help, one clear line for an error, the page of commands up to date."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from siltstone.cli import app as line
from siltstone.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT / "src")}


def siltstone(*words: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "siltstone", *words]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)


def test_help_takes_less_than_a_third_of_a_second_of_processor_time() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert siltstone("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.3


@pytest.mark.parametrize("words", [["--help"], *[[name, "--help"] for name in line.COMMANDS]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = siltstone(*words, python=("-X", "importtime"))
    assert done.returncode == 0
    imported = {row.rsplit("|", 1)[-1].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "rich", "tokenizers", "safetensors"}


def test_version() -> None:
    assert siltstone("--version").stdout.startswith("siltstone ")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """A command line with one command that raises what it is given."""

    def make(error: BaseException) -> typer.Typer:
        def fail() -> None:
            raise error

        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        app.callback()(line.options)
        app.command("fail")(line.guarded(fail))
        monkeypatch.setattr(line, "app", app)
        return app

    return make


def test_an_error_is_one_line_and_exit_code_2(failing) -> None:
    result = CliRunner().invoke(failing(ConfigError("windw is not a key;\n did you mean window?")), ["fail"])
    assert result.exit_code == 2
    assert result.stderr == "siltstone: error: windw is not a key; did you mean window?\n"
    assert result.stdout == ""


@pytest.mark.parametrize("said", ["[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "CUDA out of memory."])
def test_too_little_memory_is_one_line_too(failing, said: str) -> None:
    result = CliRunner().invoke(failing(RuntimeError(said)), ["fail"])
    assert (
        result.exit_code == 2
        and result.stderr.count("\n") == 1
        and "out of memory" in result.stderr.removeprefix("siltstone: error: ")
    )
    assert isinstance(CliRunner().invoke(failing(RuntimeError("another")), ["fail"]).exception, RuntimeError)


def test_an_error_of_the_system_is_one_line_too(failing) -> None:
    result = CliRunner().invoke(failing(PermissionError(13, "Permission denied", "/etc/run")), ["fail"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "/etc/run" in result.stderr


def test_ctrl_c_is_one_line_and_exit_code_130(failing) -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert (result.exit_code, result.stderr) == (130, "siltstone: interrupted\n")


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]], ids=" ".join)
def test_debug_lets_the_trace_through(failing, words: list[str]) -> None:
    failing(ConfigError("bad"))
    with pytest.raises(ConfigError):
        line.main(words)


def test_a_word_after_two_dashes_is_text(failing, capsys: pytest.CaptureFixture[str]) -> None:
    failing(ConfigError("bad"))
    with pytest.raises(SystemExit) as stop:
        line.main(["fail", "--", "--debug"])
    assert stop.value.code == 2


def test_a_bug_keeps_its_trace(failing) -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("bug")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_unknown_command_or_option_is_refused() -> None:
    for words in (["trian"], ["train", "--stepz", "3"]):
        done = siltstone(*words)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_page_of_commands_is_up_to_date(tool: Callable[[str], ModuleType]) -> None:
    page = tool("cli_page")
    assert page.PAGE.read_text("utf-8") == page.page(), "run `make docs`"


def test_every_command_is_there() -> None:
    group = typer.main.get_command(line.app)
    assert set(group.commands) == set(line.COMMANDS)  # type: ignore[attr-defined]
