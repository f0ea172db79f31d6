"""The built wheel is whole: installed by itself, into a folder of its own, it runs from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path, folder: Path, path: Path | None = None) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network, from a copy: the build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", ".", folder=source)
    return next((source / "dist").glob("siltstone-*.whl"))


def test_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src/siltstone").rglob("*.py")}
    models = [p for folder in ("demo", "lookup") for p in (ROOT / "src/siltstone/assets" / folder).glob("*")]
    shipped |= {f"siltstone/assets/{p.parent.name}/{p.name}" for p in models}
    shipped |= {f"siltstone/serve/page/{p.name}" for p in (ROOT / "src/siltstone/serve/page").glob("*")}
    assert set(n for n in names if ".dist-info/" not in n) == shipped | {"siltstone/py.typed"}
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_installs_and_runs_from_a_folder_of_its_own(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel, folder=tmp_path)
    code = """
import siltstone as st, torch
model = st.LM(st.presets.nano(vocab_size=300))
logits, state = model(torch.zeros(1, 100, dtype=torch.int64))
print(st.__file__, tuple(logits.shape), int(state.position[0]))
"""
    file, rest = run("-c", code, folder=tmp_path, path=site).split(" ", 1)
    assert Path(file).is_relative_to(site)
    assert rest.strip() == "(1, 100, 300) 100"
    assert run("-m", "siltstone", "--version", folder=tmp_path, path=site).strip() == "siltstone 0.1.0"
    assert (site / "bin" / "siltstone").exists()
