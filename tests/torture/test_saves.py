"""Sessions and models under every failure of the disk, and under real kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import siltstone as st
from siltstone.errors import CheckpointError
from siltstone.hf import export
from siltstone.models import checkpoint
from siltstone.text import ByteTokenizer, tokenizer_from_json
from siltstone.train import Recipe, begin, can_resume, fit, take_up
from tests.text.pieces import written
from tests.train.conftest import configure, write_texts

from .injector import FACTOR, power_cuts, torture
from .models import SMALL, is_new_model, is_new_session, model, session

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_session(tmp_path: Path, run: Callable[..., int]) -> None:
    old, new = session(0), session(1)
    done = run(
        lambda place: new.save(place / "a.silt", overwrite=True),
        lambda place: is_new_session(place / "a.silt"),
        tmp_path,
        lambda place: old.save(place / "a.silt", overwrite=True),
        most=20,
    )
    assert done >= 20


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_model_that_is_replaced(tmp_path: Path, run: Callable[..., int]) -> None:
    """Every instant leaves a folder that loads."""
    old, new = model(0), model(1)

    def check(place: Path) -> bool:
        return is_new_model(place / "run")

    def begin(place: Path) -> None:
        st.save(old, ByteTokenizer(), place / "run")

    def save(place: Path) -> None:
        st.save(new, ByteTokenizer(), place / "run")

    keys = {"single": False} if run is torture else {}
    assert run(save, check, tmp_path, begin, most=10, **keys) >= 10


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_model_that_is_new(tmp_path: Path, run: Callable[..., int]) -> None:
    """A folder is a model's, or says that it is not (yet)."""
    new = model(1)

    def check(place: Path) -> bool:
        try:
            return is_new_model(place / "deep" / "run")
        except CheckpointError as error:
            assert "is not (yet) the folder of a trained model" in str(error) or "is not a folder" in str(error)
            return False

    keys = {"single": False} if run is torture else {}
    assert run(lambda place: st.save(new, ByteTokenizer(), place / "deep" / "run"), check, tmp_path, most=10, **keys) >= 10


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_model_with_files_beside_it(tmp_path: Path, run: Callable[..., int]) -> None:
    """Weights, settings of the tokenizer and further files are all old or all new."""
    names = ["<s>", "</s>"]
    made = [st.LM(st.presets.nano(700, **SMALL)) for _ in names]
    kinds = [(made[i], tokenizer_from_json(written("replace"), json.dumps({"eos_token": names[i]}))) for i in range(2)]

    def save(place: Path, i: int) -> None:
        st.save(*kinds[i], place / "run", beside={"more.json": names[i].encode()})

    def check(place: Path) -> bool:
        found, tok = st.load(place / "run")
        i = int(all(torch.equal(a, b) for a, b in zip(found.parameters(), kinds[1][0].parameters(), strict=True)))
        assert tok.eos_id == 1 + i and checkpoint.read_beside(place / "run", "more.json") == names[i].encode()
        return bool(i)

    keys = {"single": False} if run is torture else {}
    assert run(lambda place: save(place, 1), check, tmp_path, lambda place: save(place, 0), most=10, **keys) >= 10


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_decoder_that_is_exported(tmp_path: Path, run: Callable[..., int]) -> None:
    """The configuration comes last: a folder that has it has everything."""
    keys = dict(vocab_size=700, d_model=8, heads=2, depth=1, pattern="a")
    made = st.save(st.LM(st.LMConfig.from_dict(keys)), tokenizer_from_json(written("replace")), tmp_path / "source")

    def check(place: Path) -> bool:
        if not (place / "hf" / "config.json").exists():
            return False
        json.loads((place / "hf" / "config.json").read_text("utf-8"))
        assert (place / "hf" / "tokenizer.json").read_text("utf-8") == written("replace")
        return len(load_file(place / "hf" / "model.safetensors")) == 11

    work = tmp_path / "work"
    work.mkdir()
    keys = {"single": False} if run is torture else {}
    assert run(lambda place: export(made, place / "hf", overwrite=True), check, work, most=10, **keys) >= 10


@pytest.mark.parametrize("run", [torture, power_cuts])
def test_a_training_run(tmp_path: Path, run: Callable[..., int]) -> None:
    """Begun, or resumed where there is one: whatever fails, the same command given again ends with a model."""
    texts = write_texts(tmp_path / "texts", (300,))

    def train(place: Path) -> None:
        out, recipe = place / "run", Recipe(steps=2, batch=2, length=16, save_every=1)
        fit(take_up(out, {}) if can_resume(out) else begin(out, [texts], configure, recipe, overwrite=True))

    def check(place: Path) -> bool:
        """Whether the run is done; what there is of a model loads."""
        try:
            st.load(place / "run")
        except CheckpointError as error:
            assert "is not (yet) the folder of a trained model" in str(error) or "is not a folder" in str(error)
            return False
        return (place / "run" / "receipt.json").exists()

    keys = {"single": False} if run is torture else {}
    assert run(train, check, tmp_path, most=6, **keys) >= 6


KILLS = 4 if FACTOR <= 1 else round(10 * FACTOR)


def test_kills(tmp_path: Path) -> None:
    """A process that saves without end is killed at any instant: what it saved can be read, and nothing is left behind."""
    command = [sys.executable, "-m", "tests.torture.killed", str(tmp_path), str(KILLS)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS and found["left"] == []
    assert FACTOR < 5 or found["unfinished"] > 0, "no kill came while a file was written"
