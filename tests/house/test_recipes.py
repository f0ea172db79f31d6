"""The recipes are run as their page prints them; what is said of merged states names every rule."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import siltstone as st
from siltstone.cli.app import app
from siltstone.config import registry
from siltstone.train import recompute

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import family_merged  # noqa: E402
import family_recipes  # noqa: E402

sys.path.remove(str(ROOT / "tools"))
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
LINES = re.findall(r"^```python\n(.*)\n```$", PAGE, re.M)


def built(line: str) -> st.LM:
    names: dict[str, Any] = {"st": st}
    exec(line, names)
    return names["model"].eval()


def test_the_page_prints_every_recipe() -> None:
    assert [recipe.line for recipe in family_recipes.RECIPES] == LINES
    assert len({recipe.need for recipe in family_recipes.RECIPES}) == len(LINES) >= 9


@pytest.mark.parametrize("number", range(len(family_recipes.RECIPES)))
def test_a_recipe_runs_and_keeps_as_many_bytes_as_it_says(number: int) -> None:
    recipe, model, length = family_recipes.RECIPES[number], built(LINES[number]), family_recipes.TOKENS
    ids = torch.randint(0, family_recipes.VOCAB, (1, length), generator=torch.Generator().manual_seed(0))
    cut = (torch.arange(length)[None] + 1) % 40 == 0 if model.cfg.content else None
    with torch.no_grad():
        hidden, state = model.features(ids, cut=cut)
        logits, after = model(ids[:, :1], state)
    assert hidden.isfinite().all() and logits.shape == (1, 1, family_recipes.VOCAB) and after.position.tolist() == [length + 1]
    assert state.nbytes == recipe.state


def test_the_recipe_for_long_rows_trains() -> None:
    recipe = next(r for r in family_recipes.RECIPES if "--recompute" in r.need)
    options = {name for p in typer.main.get_command(app).commands["train"].params for name in p.opts}  # type: ignore[attr-defined]
    assert {*re.findall(r"--\w+", recipe.need)} == {"--length", "--recompute"} <= options
    model, ids = built(recipe.line), torch.randint(0, family_recipes.VOCAB, (1, 600))
    hidden, _ = recompute.features(model, ids)
    recompute.cross_entropy(model, hidden[:, :-1], ids[:, 1:]).backward()
    grad = model.embed.weight.grad
    assert grad is not None and grad.isfinite().all() and grad[ids[0, 0]].abs().sum() > 0


def test_merged_states_are_told_of_every_rule() -> None:
    rules = [rule for kind in family_merged.KINDS for rule in kind[0]]
    assert sorted(rules) == list(registry.members("memory"))
    refused = {rule for names, *_, merged in family_merged.KINDS for rule in names if merged.startswith("raises ConfigError")}
    assert refused == {name for name, cls in registry.members("memory").items() if not cls.adds_up}


@pytest.mark.parametrize("memory,options", [("deep", {"limit": None}), ("gated_delta", {}), ("lstm", {})])
def test_merging_adds_what_two_segments_changed(memory: str, options: dict[str, Any]) -> None:
    """As the page says: W_0 + (W - W_0) + (W' - W_0), and with start="carry" the newer one alone."""
    keys: dict[str, Any] = {"heads": 2, "window": 0, "write_delay": 0, "memory": memory, "segment": 16, "cache": "residual"}
    keys["memory_options"] = options
    x = torch.randn(1, 33, 16)  # two segments, and a token that seals the second
    for start in ("restart", "carry"):
        torch.manual_seed(0)
        one = st.MemoryCaching(16, start=start, max_checkpoints=1, evict="merge", **keys)
        torch.manual_seed(0)
        both = st.MemoryCaching(16, start=start, max_checkpoints=2, evict="merge", **keys)
        with torch.no_grad():
            (merged,), (apart,) = one(x)[1].layers, both(x)[1].layers
        first = one.mix.memory.read_factors(one.mix.memory.init(1))
        for w, each, w0 in zip(merged.bank.factors, apart.bank.factors, first, strict=True):
            older, newer = each.unbind(2)
            wanted = older + newer - w0 if start == "restart" else newer
            torch.testing.assert_close(w[:, :, 0], wanted)


def test_what_was_merged_is_held_to_the_limit() -> None:
    """As the page says of `deep`: no matrix of a merged checkpoint has more than `limit` times its first norm."""
    found = {}
    for limit in (None, 1.05):
        torch.manual_seed(0)
        options = {"limit": limit, "inner_batch": 16}
        layer = st.MemoryCaching(
            16,
            heads=2,
            window=0,
            write_delay=0,
            memory="deep",
            memory_options=options,
            segment=16,
            max_checkpoints=1,
            evict="merge",
        )
        with torch.no_grad():
            (state,) = layer(torch.randn(1, 81, 16))[1].layers
            first = layer.mix.memory.read_factors(layer.mix.memory.init(1))
            pairs = zip(state.bank.factors, first, strict=True)
            found[limit] = [float((w.norm(dim=(-2, -1)).squeeze(2) / w0.norm(dim=(-2, -1))).max()) for w, w0 in pairs]
    assert max(found[1.05]) <= 1.05 * (1 + 1e-6) < max(found[None])
