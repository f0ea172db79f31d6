"""Exported programs with explicit state do what `LM.step` does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import InputError
from siltstone.inference.export import Call, exported
from siltstone.inference.program import flatten

from ..contract.common import close, generic

VOCAB = 20
BLOCKS: dict[str, Any] = dict(cache="blocks", segments="constant", router="subblock:2", top_k=2, memory="linear")
CASES: dict[str, dict[str, Any]] = {
    "logarithmic": dict(),
    "carry": dict(start="carry", cache="sparse", router="subblock:2", top_k=2),
    "constant": dict(segments="constant", cache="sparse", router="subblock:2", top_k=2),
    "anchors": dict(segments="constant", cache="sparse", router="anchor:2", top_k=2),
    "pairs": dict(segments="constant", cache="gated", cache_options=dict(exact=3)),
    "budget": dict(segments="constant", max_checkpoints=3, evict="merge", cache="gated", gate="softmax"),
    "hybrid": dict(segments="constant", pattern="ma", sinks=2, short_conv=3),
    "rule without decay": dict(memory="delta"),
    "blocks": dict(BLOCKS, route_every=3),
    "blocks, too few for two stages": dict(BLOCKS, cache_options=dict(router_queries=4, route_every=3, coarse=4)),
    "blocks, rounded, two in a group": dict(BLOCKS, segment=4, route_every=6, checkpoint_dtype="int8", kv_heads=1, sinks=2),
}


def model_of(preset: str, **keys: Any) -> st.LM:
    small = dict(depth=2, d_model=16, heads=2, window=6, segment=8, router_dim=8)
    idle = ("router_dim",) if keys.get("cache") in ("none", "residual", "blocks") else ()
    if "route_every" in keys:
        keys["cache_options"] = dict(router_queries=4, route_every=keys.pop("route_every"))
    return generic(st.LM(st.presets.get(preset, VOCAB, **{k: v for k, v in (small | keys).items() if k not in idle}))).eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
def test_step_and_seal_with_the_state_in_and_out(case: str) -> None:
    """Two rows of different ages, over several seals."""
    model = model_of("nano", **CASES[case])
    text = torch.randint(VOCAB, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = st.LM.init_state(model, 2)
        _, state = model(text[:, :21], state, mask=torch.arange(21) < torch.tensor([[21], [13]]))
        programs = exported(model, state)
        step, seal = programs.step.module(), None if programs.seal is None else programs.seal.module()
        tensors, seals = flatten(Call(model, state).layers, whole=True), 0
        assert len(programs.names) == len(tensors)
        for ids in text[:, 21:51].unbind(1):
            call = Call(model, state)
            number, now, writes, _ = call.seal()
            if seal is not None and any(x is not None and bool(x.any()) for x in now):
                tensors, seals = seal(number, now, writes, tensors), seals + 1
            logits, tensors = step(*call.step(ids)[:-1], tensors)
            want, state = model.step(ids, state)
            close(logits, want)
        assert seals > 3


STAGES = dict(router_queries=4, route_every=3, coarse=4, coarse_from=500)


@pytest.mark.parametrize("keys", [dict(max_bytes=4096), dict(max_checkpoints=3), dict(cache_options=STAGES)])
def test_blocks_that_only_the_host_can_choose_are_refused(keys: dict[str, Any]) -> None:
    model = model_of("nano", **BLOCKS, **keys)
    with pytest.raises(InputError, match="cannot be exported"):
        exported(model, model.init_state(1))


@pytest.mark.parametrize("more", [dict(exact=3), dict(votes=3)])
def test_rows_that_ask_with_more_than_their_means_are_refused(more: dict[str, int]) -> None:
    model = model_of("nano", **BLOCKS, cache_options=dict(router_queries=4, route_every=3) | more)
    exported(model, model.init_state(1))
    with pytest.raises(InputError, match="set asking to False, or set cache_options exact=0 and votes=0"):
        exported(model, model.init_state(1).asking())


@pytest.mark.parametrize("preset", [*st.presets.names(), "blocks"])
def test_every_preset_is_exported_without_wider_numbers(preset: str) -> None:
    """In float32 there is no float64, and no number is read back. "blocks" is a model of them."""
    model = (model_of("nano", **BLOCKS, route_every=3) if preset == "blocks" else model_of(preset)).float()
    programs = exported(model, model.init_state(1))
    assert programs.seal is not None
    for program in (programs.step, programs.seal):
        for node in program.graph.nodes:
            value = node.meta.get("val")
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, node
            assert "_local_scalar_dense" not in str(node.target)
