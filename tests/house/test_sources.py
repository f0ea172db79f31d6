"""What holds for every file of the project."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".sh", ""}
# Words of the place where something was made, instead of the thing itself; written so that this file passes.
ELSEWHERE = re.compile(
    r"/wor[k]/|\.\./share[d]|/roo[t]/|\bissue[s]? #?\d|\bissue[s]? (show|list)|co-enginee[r]|workplac[e]|as an A[I]\b", re.I
)


def files() -> list[Path]:
    """Every file that is the project's: what git knows or would add, or everything where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    hidden = (".venv", ".git", "__pycache__")
    return [p for p in ROOT.rglob("*") if p.is_file() and not any(part in hidden for part in p.parts)]


def text_files() -> list[tuple[str, str]]:
    assets = ROOT / "src/siltstone/assets"
    found = [p for p in files() if p.suffix in TEXT and not p.is_relative_to(assets) and p.name != "LICENSE"]
    return [(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in found]


def python_files() -> list[tuple[str, str]]:
    return [(name, text) for name, text in text_files() if name.endswith(".py")]


def test_the_project_speaks_of_itself() -> None:
    found = [f"{name}: {match.group()!r}" for name, text in text_files() for match in ELSEWHERE.finditer(text)]
    assert not found, found


def test_files_are_short() -> None:
    long = {name: lines for name, text in python_files() if (lines := text.count("\n")) > 400}
    assert not long, long


def test_nothing_is_pickled() -> None:
    pickled = re.compile(r"\bimport pickle|\bfrom pickle|torch\.(load|save)\(|allow_pickle=True")
    assert not [name for name, text in python_files() if name.startswith("src/") and pickled.search(text)]


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, text in python_files() if text.strip() and not text.lstrip().startswith(('"""', 'r"""', "#!"))]
    assert not silent, silent


def test_no_test_is_skipped_or_expected_to_fail_without_a_condition() -> None:
    skip = re.compile(r"pytest\.(mark\.)?(skip|xfail)\b(?!if)")
    assert not [
        name for name, text in python_files() if name.startswith("tests/") and skip.search(text) and "test_sources" not in name
    ]


def test_the_checkpoints_that_ship_are_small() -> None:
    assert sum(p.stat().st_size for p in (ROOT / "src/siltstone/assets").rglob("*") if p.is_file()) <= 8e6
