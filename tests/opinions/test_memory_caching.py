"""`memory-caching` against our rules and caches, where its equations are ours.

It takes queries, keys, values and routing queries from our weights. Where it differs:

- a checkpoint is scored by the *sum* of its keys, ours by their mean; the same for a full segment with a factor of C. The segment
  that is being written is scored by the sum so far, so that gates with a softmax are ours at the last token of each segment only.
- it routes each head by the head's own keys, ours all heads by routing keys of their own: one head, whose routing keys are its
  keys.
- logarithmic segments are cut by the length of the whole text, which nobody knows while it streams: not compared.
- its MLP memories have biases and take one gradient a token: biases are put back to 0 after each write, `inner_batch` is 1. The
  sign of its Titans recurrence as printed is not a descent; `gradient_descent` is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siltstone.config import registry

from .common import FLOAT64, HEADS, WIDTH, agree, close, layer, package, reads, stream

peer = package("memory_caching")
SEGMENT = 8
STARTS = {"restart": "restart", "carry": "checkpoint"}


class Given(nn.Module):
    """A projection that is ours."""

    def __init__(self, f: Any):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x).flatten(2)


def their_layer(made: Any, backend: Any, kind: str, aggregation: str, start: str) -> Any:
    """Their layer around our projections, answering what it reads."""
    config = peer.MCConfig(
        d_model=made.cfg.heads * made.cfg.key_dim,
        num_heads=made.cfg.heads,
        backend=kind,
        aggregation=aggregation,
        segment_size=SEGMENT,
        state_init_mode=STARTS[start],
        ssc_top_k=2,
    )
    theirs = peer.MemoryCachingLayer(config=config, backend=backend).double()
    theirs.config = replace(config, d_model=WIDTH)  # of the tokens that it is given
    memory = made.mix.memory
    theirs.q_proj, theirs.o_proj = Given(memory.queries), nn.Identity()
    theirs.k_proj, theirs.v_proj = Given(lambda x: memory.inputs(x)["key"]), Given(lambda x: memory.inputs(x)["value"])
    theirs.u_proj = theirs.q_proj if made.mix.router is None else Given(lambda x: made.mix.router.queries(x).unsqueeze(2))
    return theirs


@pytest.mark.parametrize("start", STARTS)
def test_linear_with_a_residual_cache(start: str) -> None:
    made = layer("linear", cache="residual", segment=SEGMENT, start=start)
    theirs = their_layer(made, peer.LinearMemoryBackend(), "linear", "residual", start)
    agree(made, theirs, stream(29), FLOAT64, [1, 8, 20])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("cache", "aggregation"), [("gated", "grm"), ("soup", "soup"), ("sparse", "ssc")])
def test_linear_with_routed_caches_at_the_ends_of_segments(cache: str, aggregation: str, start: str) -> None:
    picks = {"top_k": 2} if cache == "sparse" else {}
    made = layer("linear", heads=1, cache=cache, segment=SEGMENT, start=start, gate="softmax", router_dim=WIDTH, **picks)
    router = made.mix.router
    with torch.no_grad():
        router.key.weight.copy_(made.mix.memory.write.weight[:WIDTH])  # routing keys are the memory's keys
        router.log_scale.fill_(math.log(SEGMENT) / 2)  # exp(log_scale) sqrt(C) mean = sum
        router.bias.zero_()
        router.online.zero_()
    theirs = their_layer(made, peer.LinearMemoryBackend(), "linear", aggregation, start)
    x = stream(6 * SEGMENT + 3)
    ends = torch.arange(SEGMENT - 1, x.shape[1], SEGMENT)
    ours, other = reads(made, x), theirs(x)
    close(ours[:, ends], other[:, ends], FLOAT64)
    assert float((ours - other).detach().abs().max()) > 1e-3  # elsewhere the running segment's score differs
    weights = [made.mix.memory.write.weight, made.mix.memory.query.weight, router.query.weight]
    write, *rest, key = torch.autograd.grad(ours[:, ends].square().sum(), [*weights, router.key.weight])
    both = torch.cat([write[:WIDTH] + key, write[WIDTH:]])  # there one weight makes the keys of memory and router
    for a, b in zip([both, *rest], torch.autograd.grad(other[:, ends].square().sum(), weights), strict=True):
        close(a, b, FLOAT64, "gradient")


def constant(made: Any, *values: float) -> None:
    """Gates that every token gives alike, and that do not learn."""
    gates = made.mix.memory.gates.requires_grad_(False)
    with torch.no_grad():
        gates.weight.zero_()
        gates.bias.copy_(torch.tensor(values, dtype=torch.float64).logit().repeat_interleave(HEADS))


@pytest.mark.parametrize("rule", [name for name in ("swla",) if name in registry.members("memory")])
@pytest.mark.parametrize("start", STARTS)
def test_swla(rule: str, start: str) -> None:
    """With constant gates, which are the only ones there."""
    made = layer(rule, cache="residual", segment=SEGMENT, start=start)
    constant(made, 0.9, 0.3, 0.7)
    gates = dict(zip(("alpha", "beta", "lam"), (0.9, 0.3, 0.7), strict=True))
    theirs = their_layer(made, peer.SWLABackend(peer.SWLAConfig(**gates)), "swla", "residual", start)
    agree(made, theirs, stream(29), FLOAT64, [1, 8, 20])


@pytest.mark.parametrize("rule", ["deep", "titans"])
def test_mlp_memories_write_for_write(rule: str) -> None:
    options = {"inner_batch": 1, "expansion": 2, "inner_lr": 1.0}
    made = layer(rule, options)
    memory, step, momentum, keep = made.mix.memory, 0.05, 0.6, 0.97
    sizes = {"memory_width": 2 * made.cfg.key_dim, "step_size": step}
    if rule == "deep":
        constant(made, step)
        backend = peer.DLABackend(peer.DLAConfig(**sizes))
    else:
        constant(made, 1 - keep, momentum, step)
        config = peer.TitansConfig(**sizes, momentum=momentum, retention_alpha=keep, update_convention="gradient_descent")
        backend = peer.TitansBackend(config)
    x = stream(23)
    with torch.no_grad():
        state = backend.init_state(batch_size=2, num_heads=HEADS, head_dim=made.cfg.key_dim, device=x.device, dtype=x.dtype)
        first = tuple(w.transpose(1, 2).expand(2, *w.mT.shape).clone() for w in (memory.w_in, memory.w_out))
        state = replace(state, weights=first)
        given, queries, answers = memory.inputs(x), memory.queries(x), []
        for t in range(x.shape[1]):
            k, v = given["key"][:, t], given["value"][:, t]
            target = v if rule == "deep" else v - k  # our M adds its input, theirs does not
            state = without_biases(backend.update(state, k, target))
            answers.append(queries[:, t] + backend.apply(state, queries[:, t]))
        close(reads(made, x, [1, 9]), torch.stack(answers, 1).flatten(2), FLOAT64)


def without_biases(state: Any) -> Any:
    """Biases, and their momenta, at 0."""
    names = [name for name in ("biases", "vel_b", "s_b") if getattr(state, name, None) is not None]
    return replace(state, **{name: tuple(torch.zeros_like(b) for b in getattr(state, name)) for name in names})
