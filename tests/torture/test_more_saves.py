"""Imported decoders and laboratories under every failure of the disk: what is there can be used, and the same command goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import siltstone as st
from siltstone.errors import CheckpointError, InUse
from siltstone.eval.run import trained_on
from siltstone.train.lab import run_lab, smoke
from siltstone.train.lab_run import RESULT, RESUME
from siltstone.train.recipe import Recipe
from siltstone.train.results import read_result

from .injector import power_cuts, torture

RUNS = pytest.mark.parametrize("run", [torture, power_cuts])
LAB = dataclasses.replace(smoke(), arms=("transformer", "sparse"), recipe=Recipe(steps=2, batch=2, save_every=1), items=2)


@RUNS
def test_a_laboratory(tmp_path: Path, run: Callable[..., int]) -> None:
    """Every result has its model and its task; a checkpoint goes once its results are on the disk."""
    whole = run_lab(LAB, tmp_path / "lab")["runs"]

    def check(place: Path) -> bool:
        found = [read_result(path, LAB.key) for path in (place / "lab").glob(f"*/*/{RESULT}")]
        for one in found:
            same = next(run for run in whole if run["arm"] == one["arm"])
            assert one["right"] == same["right"] and one["rows"] == same["rows"]
            st.load(place / "lab" / one["arm"] / "0")
            assert (trained_on(place / "lab" / one["arm"] / "0") or {})["task"] == "mqar"
        return len(found) == 2

    def train(place: Path) -> None:
        if run_lab(LAB, place / "lab")["missing"]:
            raise InUse("another process has a run of the laboratory")

    keys = {"single": False} if run is torture else {}
    done = run(train, check, tmp_path / "work", most=6, **keys)
    assert done >= 6 and not [*(tmp_path / "lab").rglob(RESUME)]


@RUNS
def test_a_decoder_that_is_imported(tmp_path: Path, run: Callable[..., int]) -> None:
    pytest.importorskip("transformers", reason="an optional package: the extra hf", minversion="5.24")
    from siltstone.hf import export, import_run
    from tests.hf.tiny import saved

    source = saved("llama", tmp_path / "source")

    def check(place: Path) -> bool:
        try:
            st.load(place / "run")
        except CheckpointError as error:
            assert "is not (yet) the folder of a trained model" in str(error) or "is not a folder" in str(error)
            return False
        export(place / "run", place / "back", overwrite=True)
        assert (place / "back" / "config.json").read_bytes() == (source / "config.json").read_bytes()
        return True

    keys = {"single": False} if run is torture else {}
    assert run(lambda place: import_run(source, place / "run"), check, tmp_path / "work", most=6, **keys) >= 6
