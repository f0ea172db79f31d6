"""Checkpoints kept in bfloat16 or int8: the oracle's rounding exactly, the stated error, and fewer bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siltstone.bank.codec import pack, unpack
from siltstone.config import registry

from .common import PROBE, STREAM, agrees, close, differ, feed, make_layer, oracles, randn
from .grid import inner
from .models import IDS, make_model, model_config, same_bits, stepwise, through_bytes

KINDS = ["bfloat16", "int8"]
BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, cache="gated", segment=4, segments="constant", start="restart", gate="sigmoid", top_k=2, router="mean", router_dim=4,
)  # fmt: skip
BANKS: list[dict[str, Any]] = [
    {},
    dict(start="carry", cache="sparse"),
    dict(segments="logarithmic"),
    dict(segments="logarithmic", start="carry", cache="residual"),
    dict(max_checkpoints=2, evict="merge"),
    dict(max_checkpoints=2, evict="use", cache="sparse"),
]


def config(memory: str, kind: str, **keys: Any) -> dict[str, Any]:
    return BASE | dict(memory=memory, checkpoint_dtype=kind, memory_options=inner(memory)) | keys


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", BANKS, ids=lambda k: "-".join(map(str, k.values())) or "plain")
@pytest.mark.parametrize("memory", ["gated", "deep", "lstm"])
def test_outputs_and_gradients_are_the_oracles(memory: str, keys: dict[str, Any], kind: str) -> None:
    cfg = config(memory, kind, **keys)
    layer = make_layer(cfg)
    want = oracles(cfg, layer, STREAM, PROBE)
    agrees(layer, STREAM, PROBE, want)
    with torch.no_grad():
        for cuts in ([6, 7, 15], range(1, 28)):
            close(feed(layer, STREAM[None], None, cuts)[0][0], want.y)
    assert differ(want.y, oracles(cfg | dict(checkpoint_dtype="float32"), layer, STREAM, PROBE).y)


SETTINGS = registry.settings("memory")


def each(settings: list[tuple[str, dict[str, Any]]]) -> Any:
    return pytest.mark.parametrize("memory,options", settings, ids=[registry.label(*setting) for setting in settings])


def reads_one_matrix(memory: str, options: dict[str, Any]) -> bool:
    """Whether an answer is q S, at most divided by another: no function that is not linear comes after it."""
    rule = make_layer(config(memory, "float32", memory_options=inner(memory) | options)).mix.memory
    return rule.factors_count == 1 and (rule.read_is_linear or rule.normalizer > 0)


def rule_and_state(memory: str, options: dict[str, Any]) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A rule, and the matrices of its stages after a stream."""
    layer = make_layer(config(memory, "float32", memory_options=inner(memory) | options))
    _, state = layer(STREAM[None])
    return layer.mix.memory, layer.mix.memory.read_factors(state.layers[0].online)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@each(SETTINGS)
def test_matrices_are_kept_within_the_stated_error(memory: str, options: dict[str, Any], kind: str) -> None:
    """A row differs by at most 1/254 of its largest value, what divides it not at all; in bfloat16, by 1/256 of a number."""
    rule, found = rule_and_state(memory, options)
    for exact, kept in zip(found, unpack(pack(kind, found, rule.normalizer), torch.float64), strict=True):
        columns = exact.shape[-1] - rule.normalizer if kind == "int8" else exact.shape[-1]
        values = exact[..., :columns]
        bound = values.abs().amax(-1, keepdim=True) / 254 if kind == "int8" else values.abs() / 256
        assert bool(((kept - exact)[..., :columns].abs() <= bound * (1 + 1e-12)).all())
        torch.testing.assert_close(kept[..., columns:], exact[..., columns:], rtol=1e-15, atol=0)
        assert differ(kept, exact)


@torch.no_grad()
@each([setting for setting in SETTINGS if reads_one_matrix(*setting)])
def test_reads_are_within_what_the_stated_error_implies(memory: str, options: dict[str, Any]) -> None:
    """|q S - q S'| <= sum_k |q_k| max|S_k| / 254, over what the read divides by."""
    rule, found = rule_and_state(memory, options)
    (exact,), (kept,) = ((x[0],) for x in (found[0], unpack(pack("int8", found, rule.normalizer))[0]))
    query = rule.queries(STREAM[None])[0].transpose(0, 1)
    reads = [rule.activation(0, query @ matrix, query) for matrix in (exact, kept)]
    columns = exact.shape[-1] - rule.normalizer
    z = query @ exact
    z[..., :columns] = query.abs() @ exact[..., :columns].abs().amax(-1, keepdim=True) / 254
    bound = rule.activation(0, z, query)
    assert bool(((reads[1] - reads[0]).abs() <= bound.abs() * (1 + 1e-9) + 1e-15).all()) and differ(*reads)


def test_rows_of_zeros_stay_zeros() -> None:
    assert not unpack(pack("int8", (torch.zeros(1, 2, 3, 4, 5),)))[0].any()


@pytest.mark.parametrize("keys", BANKS[:3] + BANKS[5:], ids=lambda k: "-".join(map(str, k.values())) or "plain")
def test_states_are_smaller_saved_moved_and_gone_on_with(keys: dict[str, Any]) -> None:
    model = make_model(model_config(config("delta", "int8", **keys)))
    plain = make_model(model_config(config("delta", "float32", **keys)))
    _, state = stepwise(model, IDS[:1, :33], None)
    moved, back = state.to(dtype=torch.float64), through_bytes(model, state)
    same_bits(back, state)
    same_bits(moved, state)
    (y, _), (z, _) = (stepwise(model, IDS[:1, 33:], s) for s in (state, back))
    assert torch.equal(y, z)
    saved = 2 * 4 * (4 * 8 - (4 + 8))  # heads, rows; of four numbers in float64, four codes and a scale are left
    less = plain(IDS[:1, :33])[1].parts()["checkpoints"] - state.parts()["checkpoints"]
    assert less == saved * state.checkpoints()[0][0] > 0


def test_values_that_were_kept_are_kept_again_as_they_are() -> None:
    once = unpack(pack("int8", (randn(1, 2, 3, 4, 5, seed=0).float(),)))
    assert torch.allclose(unpack(pack("int8", once))[0], once[0], rtol=3e-7, atol=0)
