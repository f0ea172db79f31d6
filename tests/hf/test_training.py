"""Trainer and PEFT: training passes through the modules, and what was trained is a run folder again."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.hf import import_run

from . import runs, tiny
from .runs import KINDS, folder, loaded, tokenizer
from .tiny import IDS, quiet, transformers

TEXT = IDS % 256
ROWS = [{"input_ids": row, "labels": row} for row in TEXT[:, :96].reshape(4, 48)]


def trained(model: Any, path: Path, **more: Any) -> list[float]:
    """The losses of a few steps of the Trainer."""
    settings = dict(max_steps=6, learning_rate=5e-3, per_device_train_batch_size=2, logging_steps=1, report_to=[], seed=1)
    args = transformers.TrainingArguments(
        output_dir=path, save_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, **settings | more
    )
    with quiet(transformers), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's schedulers and of accelerate
        trainer = transformers.Trainer(model=model, args=args, train_dataset=ROWS, eval_dataset=ROWS)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
        return [*losses, trainer.evaluate()["eval_loss"]]


@pytest.mark.parametrize("kind", ["gated delta", "exact writes"])
def test_the_trainer(kind: str, tmp_path: Path) -> None:
    model = loaded(folder(tmp_path / "run", kind))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    losses = trained(model, tmp_path / "out")
    assert losses[-1] < losses[0] - 0.3
    twin = runs.model(kind)
    torch.nn.functional.cross_entropy(twin(TEXT)[0][:, :-1].flatten(0, 1), TEXT[:, 1:].flatten()).backward()
    moving = {name for name, p in twin.named_parameters() if p.grad is not None and p.grad.any()}
    assert len(moving) >= len(before) - 1  # a gate may not move
    assert moving <= {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    model.eval().save_pretrained(tmp_path / "later")
    tokenizer(tmp_path / "run").save_pretrained(tmp_path / "later")
    lm, tok = st.load(tmp_path / "later")
    with torch.no_grad():
        assert torch.equal(lm(TEXT)[0], model(TEXT).logits)
    session = st.Session(lm, tok)
    session.append("the cat")
    assert session.position == 7


def test_accumulated_batches_have_the_loss_of_all(tmp_path: Path) -> None:
    once = trained(loaded(folder(tmp_path / "run")), tmp_path / "a", per_device_train_batch_size=4, max_steps=2)
    parts = trained(
        loaded(tmp_path / "run"), tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=2
    )
    assert parts == pytest.approx(once, rel=1e-3)


def test_the_loss_is_that_of_a_model_without_the_padding(tmp_path: Path) -> None:
    model = loaded(folder(tmp_path))
    ids, mask = TEXT[:, :30].clone(), torch.ones(2, 30, dtype=torch.long)
    ids[1, :12], mask[1, :12] = 258, 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, 12] = -100  # the first token has nothing before it
    with torch.no_grad():
        found = model(ids, attention_mask=mask, labels=labels).loss
        rows = [model(ids[:1]).logits[0], model(ids[1:, 12:]).logits[0]]
        targets = [ids[0, 1:], ids[1, 13:]]
        want = torch.nn.functional.cross_entropy(torch.cat([x[:-1] for x in rows]), torch.cat(targets))
        shifted = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)
        twice = model(ids, attention_mask=mask, shift_labels=shifted, num_items_in_batch=torch.tensor(23)).loss
    assert torch.allclose(found, want, rtol=1e-5)
    assert torch.allclose(twice, want * int((shifted != -100).sum()) / 23, rtol=1e-5)


def adapted(model: Any, **how: Any) -> Any:
    """A model with LoRA whose second factor is not zero, so that it changes the logits."""
    peft = pytest.importorskip("peft", reason="an optional package")
    torch.manual_seed(0)
    settings = dict(r=4, target_modules="all-linear", task_type="CAUSAL_LM") | how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
    return made.eval()


@torch.no_grad()
def logits(model: Any, ids: Tensor = TEXT) -> Tensor:
    return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", ["gated delta", "logarithmic", "attention"])
def test_lora_is_trained_saved_and_merged(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="an optional package")
    base = loaded(folder(tmp_path / "run", kind))
    plain, before = logits(base), {name: x.clone() for name, x in base.state_dict().items()}
    model = adapted(base)
    assert (logits(model) - plain).abs().max() > 1e-2  # it is used, in every kind of layer:
    names = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {"qkv", "out", "gate", "up", "down"} <= names and "unembed" not in names
    losses = trained(model, tmp_path / "out")
    assert losses[-1] < losses[0]
    model.eval()
    kept = {name.replace("base_model.model.", "").replace(".base_layer", ""): x for name, x in model.state_dict().items()}
    assert all(torch.equal(kept[name], x) for name, x in before.items())  # the base is frozen
    want = logits(model)
    given = dict(attention_mask=torch.ones(1, 20, dtype=torch.long), max_new_tokens=8, do_sample=False)
    said = model.generate(input_ids=TEXT[:1, :20], **given)
    model.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses names of transformers that have newer ones
        again = peft.PeftModel.from_pretrained(loaded(tmp_path / "run"), tmp_path / "adapter").eval()
    assert torch.allclose(logits(again), want, atol=1e-5)
    merged = again.merge_and_unload()
    assert torch.allclose(logits(merged), want, atol=1e-4)
    assert torch.equal(merged.generate(input_ids=TEXT[:1, :20], **given), said)
    st.save(merged.lm, st.ByteTokenizer(), tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(st.load(tmp_path / "merged")[0](TEXT)[0], logits(merged))
    model.unload()
    assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_is_called(kind: str, tmp_path: Path) -> None:
    """A module whose weight was used without calling it would leave its adapter without a gradient."""
    model = adapted(loaded(folder(tmp_path, kind))).train()
    model(input_ids=TEXT, labels=TEXT).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if "lora_" in name}
    assert len(found) >= 20 and not [name for name, grad in found.items() if grad is None or not grad.any()]


def test_an_adapter_is_not_saved_as_a_model(tmp_path: Path) -> None:
    """A folder has the weights of its configuration and no others."""
    model = adapted(loaded(folder(tmp_path / "run")))
    with pytest.raises(st.errors.CheckpointError, match="merge adapters"):
        st.save(model.base_model.model.lm, st.ByteTokenizer(), tmp_path / "wrong")


def test_lora_on_an_embedding_that_is_also_the_output_layer(tmp_path: Path) -> None:
    base = loaded(folder(tmp_path / "run"))
    model = adapted(base, target_modules=["embed", "qkv"])
    want = logits(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that tied layers are merged with care
        model.merge_adapter()
        model.unmerge_adapter()
    assert torch.allclose(logits(model), want, atol=1e-4)


def test_lora_on_an_imported_decoder(tmp_path: Path) -> None:
    run = import_run(tiny.saved("llama, tied, wide heads", tmp_path / "hf"), tmp_path / "run")
    model = adapted(loaded(run), target_modules=["qkv", "out", "gate", "up", "down"])
    want = logits(model, IDS)
    assert torch.allclose(logits(model.merge_and_unload(), IDS), want, atol=1e-4 * float(want.abs().max()))
