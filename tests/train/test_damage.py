"""Files of runs and models that are damaged, of early versions, or of a save that was stopped: refused, told, or whole."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import CheckpointError, ConfigError, FormatWarning, InputError, SiltstoneError, StorageError
from siltstone.io import SEAL, checked_line, read_tensors, write_tensors
from siltstone.models.checkpoint import model_fingerprint
from siltstone.text import ByteTokenizer, train_bpe
from siltstone.train import Recipe, Run, begin, fit, take_up
from siltstone.train.report import Metrics

from .conftest import configure, write_texts


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of three steps with a checkpoint."""
    texts = write_texts(tmp_path / "texts")
    run = begin(tmp_path / "run", [texts], configure, Recipe(steps=3, batch=2, length=16), "bytes")
    fit(run)
    return run


def flipped(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["resume.safetensors", "train.json", "data/*.bin", "data/*.json", "data/tokenizer.json"])
def test_a_flipped_bit_of_a_run_is_found(run: Run, name: str) -> None:
    rng = random.Random(name)
    for path in run.folder.glob(name):
        whole = path.read_bytes()
        names = [whole.find(word) * 8 + 3 for word in (b'"sha256', b'"sealed', b"file_sha256", b'"version"') if word in whole]
        for bit in [*names, *rng.sample(range(8 * len(whole)), 40)]:
            flipped(path, bit)
            with pytest.raises(SiltstoneError):
                fit(take_up(run.folder, {"steps": 4}))
            path.write_bytes(whole)
    fit(take_up(run.folder, {"steps": 4}))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_bit_of_a_model_is_found(run: Run, name: str) -> None:
    path, rng = run.folder / name, random.Random(name)
    whole = path.read_bytes()
    for bit in rng.sample(range(8 * len(whole)), 40):
        flipped(path, bit)
        with pytest.raises(CheckpointError):
            st.load(run.folder)
        path.write_bytes(whole)
    st.load(run.folder)


def test_flipped_bits_of_metrics_are_left_out(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    whole, rng = path.read_bytes(), random.Random(0)
    with Metrics(path, 3) as metrics:
        right = metrics.recent
    for bit in rng.sample(range(8 * whole.index(b"\n")), 40):
        path.write_bytes(whole)
        flipped(path, bit)
        with pytest.warns(FormatWarning, match="altered; they are left out"), Metrics(path, 3) as metrics:
            assert metrics.recent == right  # of the last step
    path.write_bytes(whole)
    flipped(path, 8 * whole.rindex(b'"step"', 0, whole.rindex(b'"step"')))
    with pytest.warns(FormatWarning, match="1 line that were altered"), Metrics(path, 3):
        pass
    path.write_bytes(whole[:-20])
    with Metrics(path, 3):
        pass
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_a_checkpoint_that_is_gone_is_missed(run: Run) -> None:
    run.checkpoint.unlink()
    fit(take_up(run.folder, {"steps": 4}))  # save_every is 100: it might have been killed before
    run.checkpoint.unlink()
    lines = [checked_line({"step": step, "bits_per_byte": 1.0, "bytes": 1, "loss": 1.0}) for step in range(1, 102)]
    (run.folder / "metrics.jsonl").write_text("".join(lines[:100]))
    take_up(run.folder, {}).close()  # it might have failed to write the checkpoint after that line
    (run.folder / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(CheckpointError, match="resume.safetensors is missing"):
        take_up(run.folder, {"steps": 200})


def test_what_could_not_be_restored_is_not_saved(run: Run, tmp_path: Path) -> None:
    from siltstone.train import Trainer

    trainer = Trainer(st.LM(run.cfg), run.train, run.recipe)
    trainer.advance(0.5)
    trainer.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    for _, moments in trainer.optimizer.state.items():
        moments["exp_avg"].fill_(torch.nan)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        trainer.save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


CHANGES: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]] = {
    "a weight of another shape": lambda t, m: t.update({"model.norm.weight": torch.ones(3)}),
    "a weight of whole numbers": lambda t, m: t.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}),
    "a weight that is NaN": lambda t, m: t["model.norm.weight"].fill_(torch.nan),
    "a weight missing": lambda t, m: t.pop("model.norm.weight"),
    "a moment missing": lambda t, m: t.pop("optimizer.norm.weight.exp_avg"),
    "a moment of another shape": lambda t, m: t.update({"optimizer.norm.weight.exp_avg": torch.ones(3)}),
    "a tensor too many": lambda t, m: t.update(more=torch.ones(1)),
    "no generator": lambda t, m: t.pop("random.cpu"),
    "a generator beyond its words": lambda t, m: t["random.cpu"][8:24].copy_(
        torch.tensor([112, 2, 0, 0, 1, 0, 0, 0, 112, 2, 0, 0, 0, 0, 0, 0], dtype=torch.uint8)
    ),
    "a step that is true": lambda t, m: m.update(step=True),
    "a step below 0": lambda t, m: m.update(step=-1),
    "seconds that are NaN": lambda t, m: m.update(seconds="nan"),
    "a cursor outside": lambda t, m: m["cursor"].update(at=[[0, 10**9]] * 2),
    "a cursor of one row": lambda t, m: m["cursor"].update(at=[[0, 1]]),
    "a cursor of bools": lambda t, m: m["cursor"].update(dealt=True),
    "no state": lambda t, m: m.update(state=None),
    "a state of other rows": lambda t, m: m["state"].update(position=[0]),
    "no cursor": lambda t, m: m.pop("cursor"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_forged_checkpoints(run: Run, name: str) -> None:
    path = run.checkpoint
    tensors, about = read_tensors(path)
    meta = json.loads(about["meta"])
    CHANGES[name](tensors, meta)
    write_tensors(path, tensors, {key: x for key, x in about.items() if key != SEAL} | {"version": "1", "meta": json.dumps(meta)})
    with pytest.raises(CheckpointError, match="resume.safetensors cannot be used"):
        fit(take_up(run.folder, {"steps": 4}))


def early(run: Run) -> None:
    """The run as an early version would have left it: without checksums."""
    tensors, about = read_tensors(run.checkpoint)
    write_tensors(run.checkpoint, tensors, {key: x for key, x in about.items() if key != SEAL} | {"version": "1"})
    for path in (run.folder / "train.json", *run.folder.glob("data/*.json")):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({key: x for key, x in found.items() if key not in ("sealed", "sha256", "ids_sha256")}))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{key: x for key, x in line.items() if key != "crc32"} for line in lines]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(run.folder / "data" / "tokenizer.json", run.folder / "tokenizer.json")
    early_model(run.folder)


def early_model(folder: Path) -> None:
    tensors, about = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", tensors, {key: about[key] for key in ("format", "siltstone", "sha256")})


def test_runs_of_early_versions_go_on_with_a_warning(run: Run) -> None:
    early(run)
    with pytest.warns(FormatWarning) as warned:
        receipt = fit(take_up(run.folder, {"steps": 5}))
    assert receipt["steps"] == 5
    assert {Path(str(w.message).split()[0]).name for w in warned} >= {"train.json", "resume.safetensors"}
    st.load(run.folder)  # written anew: no warning


def test_models_and_sessions_of_early_versions_load_with_a_warning(run: Run, tmp_path: Path) -> None:
    from siltstone.inference import silt

    model, tok = st.load(run.folder)
    early_model(run.folder)
    with pytest.warns(FormatWarning, match="without a joint fingerprint of weights and tokenizer"):
        again, _ = st.load(run.folder)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    session = st.Session(model, tok)
    session.append("Some words")
    session.save(tmp_path / "a.silt")
    header, tensors = silt.read(tmp_path / "a.silt")
    del header["model"]["fingerprint"]
    silt.write(tmp_path / "a.silt", header, tensors)
    with pytest.warns(FormatWarning, match="early version"):
        assert st.Session.load(tmp_path / "a.silt", model, tok).position == session.position


class Stopped(BaseException):
    pass


def test_a_save_over_another_model_that_is_stopped_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_texts(tmp_path / "texts")
    other = train_bpe(texts, 270)
    torch.manual_seed(1)
    old, new = st.LM(configure(300)), st.LM(configure(300).replace(gate="softmax"))
    calls, seen = 0, set()
    while True:
        folder = tmp_path / f"run{calls}"
        st.save(old, ByteTokenizer(), folder)
        left, count = calls, 0

        def stopping(function: Any, left: int = left) -> Any:
            def call(*args: Any, **keys: Any) -> Any:
                nonlocal count
                count += 1
                if count > left:
                    raise Stopped
                return function(*args, **keys)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "rename", "unlink"):
                patch.setattr(os, name, stopping(getattr(os, name)))
            try:
                st.save(new, other, folder)
                done = True
            except Stopped:
                done = False
        model, tokenizer = st.load(folder)
        which = (model.cfg.layer.gate, tokenizer.vocab_size)
        assert which in (("sigmoid", 259), (new.cfg.layer.gate, other.vocab_size)), which
        assert torch.equal(model.embed.weight, (old if which[1] == 259 else new).embed.weight)
        seen.add(which)
        st.save(new, other, folder)
        left_over = sorted(p.name for p in folder.iterdir() if not p.name.endswith(".tmp"))
        assert left_over == ["config.json", "model.safetensors", "tokenizer.json"]
        if done:
            break
        calls += 1
    assert len(seen) == 2 and calls >= 6


@pytest.mark.parametrize("over", [False, True])
def test_a_folder_with_a_model_is_left_as_it_is(over: bool, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    torch.manual_seed(1)
    folder = st.save(st.LM(configure(300).replace(gate="softmax")), ByteTokenizer(), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    recipe = Recipe(steps=1, batch=2, length=16)
    if over:
        begin(folder, [texts], configure, recipe, overwrite=True)
    else:
        with pytest.raises(ConfigError, match="already has a model; choose another --out, or give --overwrite"):
            begin(folder, [texts], configure, recipe)
    assert {name: (folder / name).read_bytes() for name in before} == before  # until the first checkpoint
    assert st.load(folder)[0].cfg.layer.gate == "softmax"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, "bfloat16", 5])
def test_dtypes_that_weights_cannot_be_kept_in(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a dtype for weights"):
        st.save(st.LM(configure(259)), ByteTokenizer(), tmp_path / "run", dtype)
    assert not (tmp_path / "run").exists()


def test_weights_that_overflow_in_a_narrower_dtype(tmp_path: Path) -> None:
    model = st.LM(configure(259))
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        st.save(model, ByteTokenizer(), tmp_path / "run", torch.float16)


def off(model: st.LM) -> None:
    model.to("meta")


def sparse(model: st.LM) -> None:
    model.embed.weight = torch.nn.Parameter(model.embed.weight.detach().to_sparse())


def quarter(model: st.LM) -> None:
    model.norm.weight = torch.nn.Parameter(model.norm.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


@pytest.mark.parametrize("change", [off, sparse, quarter])
def test_weights_that_no_file_keeps(change: Any, tmp_path: Path) -> None:
    model = st.LM(configure(259))
    st.save(model, ByteTokenizer(), tmp_path / "run")
    before = [path.read_bytes() for path in sorted((tmp_path / "run").iterdir())]
    change(model)
    with pytest.raises((InputError, CheckpointError), match="without values|layout torch.sparse|dtype that files do not support"):
        st.save(model, ByteTokenizer(), tmp_path / "run")
    assert [path.read_bytes() for path in sorted((tmp_path / "run").iterdir())] == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_in_wrappers(tmp_path: Path) -> None:
    model = st.LM(configure(259)).eval()
    st.save(torch.compile(model, backend="eager"), ByteTokenizer(), tmp_path / "run")  # type: ignore[arg-type]
    again, _ = st.load(tmp_path / "run")
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    for i, block in enumerate(model.blocks):  # each by itself, as long models are compiled
        model.blocks[i] = torch.compile(block, backend="eager")  # type: ignore[assignment]
    st.save(model, ByteTokenizer(), tmp_path / "run")
    again, _ = st.load(tmp_path / "run")
    assert model_fingerprint(again) == model_fingerprint(model)
    model.blocks[0].mix.out = torch.nn.Sequential(model.blocks[0].mix.out)  # as adapters wrap it
    with pytest.raises(CheckpointError, match=r"merge adapters.*lacks blocks.0.mix.out.weight and has the unknown"):
        st.save(model, ByteTokenizer(), tmp_path / "run")
    assert st.load(tmp_path / "run")


def test_a_tokenizer_that_could_not_be_loaded_again(tmp_path: Path) -> None:
    class Other(ByteTokenizer):
        def to_json(self) -> str:
            return "{}"

    with pytest.raises(CheckpointError, match="the tokenizer cannot be used"):
        st.save(st.LM(configure(259)), Other(), tmp_path / "run")


def test_ids_that_are_not_the_tokenizers(run: Run) -> None:
    early(run)
    for path in run.folder.glob("data/*.bin"):
        ids = np.fromfile(path, "<u2")
        ids[5] = 300
        ids.tofile(path)
    with pytest.raises(CheckpointError, match="are not this tokenizer's"), pytest.warns(FormatWarning):
        take_up(run.folder, {"steps": 4})


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_metrics_that_are_no_file_are_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="metrics.jsonl: it is a"):
        Metrics(path, 0)
