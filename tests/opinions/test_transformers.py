"""`transformers`: the gated delta rule of Qwen3-Next, the state-space duality of Mamba-2, the mLSTM of xLSTM.

Its gated delta rule and its chunked scan compute in float32 whatever they are given, so that they are compared to 1e-5.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from siltstone.config import registry

from .common import FLOAT32, FLOAT64, HEADS, agree, close, layer, package, reads, stream

qwen = package("transformers.models.qwen3_next.modeling_qwen3_next")
mamba = package("transformers.models.mamba2.modeling_mamba2")
xlstm = package("transformers.models.xlstm.modeling_xlstm")


@pytest.mark.parametrize("options", [{}, {"negative": True}])
@pytest.mark.parametrize("form", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
@pytest.mark.parametrize("rule", ["gated_delta", "delta"])
def test_the_gated_delta_rule_is_that_of_qwen3_next(rule: str, form: str, options: dict[str, Any]) -> None:
    made = layer(rule, options)
    memory, scale = made.mix.memory, made.cfg.key_dim**0.5  # queries are divided by it there

    def other(x: Tensor) -> Tensor:
        given = memory.inputs(x)
        names = {"key": "key", "value": "value", "g": "decay", "beta": "beta"}
        y, _ = getattr(qwen, form)(memory.queries(x) * scale, **{name: given[ours] for name, ours in names.items()})
        return y.flatten(2)

    agree(made, other, stream(70), FLOAT32, [1, 33, 64])


def test_unit_vectors_are_those_of_qwen3_next() -> None:
    from siltstone.ops.norm import l2

    x = stream(9)
    close(l2(x), qwen.l2norm(x), FLOAT64)


def test_the_gated_rule_is_the_chunked_scan_of_mamba2() -> None:
    """Its step dt is both decay and strength, S <- exp(dt A) S + dt x B^T: A = -1, dt = -log a, x = (b / dt) v, B = k, C = q."""
    made = layer("gated")
    memory = made.mix.memory

    def other(x: Tensor) -> Tensor:
        given = memory.inputs(x)
        step = -given["decay"]
        value = given["value"] * (given["beta"] / step).unsqueeze(-1)
        y = mamba.mamba2_chunk_scan(value, step, -torch.ones(HEADS), given["key"], memory.queries(x), chunk_size=16)
        return y.flatten(2).double()

    agree(made, other, stream(70), FLOAT32, [1, 33, 64])


def test_the_gated_rule_is_one_masked_product_with_the_segment_sums_of_mamba2() -> None:
    """o_t = sum_s exp(log a_s+1 + ... + log a_t) <q_t, k_s> b_s v_s, in float64."""
    made = layer("gated")
    memory = made.mix.memory

    def other(x: Tensor) -> Tensor:
        given = memory.inputs(x)
        fade = mamba.segment_sum(given["decay"].transpose(1, 2)).exp()
        scores = torch.einsum("bthk,bshk->bhts", memory.queries(x), given["key"]) * fade
        return torch.einsum("bhts,bshv,bsh->bthv", scores, given["value"], given["beta"]).flatten(2)

    agree(made, other, stream(70), FLOAT64, [1, 33, 64])


@pytest.mark.parametrize("start", ["random", "large gates"])
@pytest.mark.parametrize("rule", [name for name in ("mlstm",) if name in registry.members("memory")])
def test_the_mlstm_is_that_of_xlstm(rule: str, start: str) -> None:
    """Gates are read as our rule reads them; it divides queries by sqrt(K) where ours divides keys; its epsilon is put to 0."""
    made = layer(rule)
    memory = made.mix.memory
    if start == "large gates":
        with torch.no_grad():
            memory.gates.weight *= 8

    def other(x: Tensor) -> Tensor:
        parts = mlstm_parts(memory, x)
        return xlstm.mlstm_recurrent_sequence_native(**parts, eps=0.0, dtype_state=torch.float64).transpose(1, 2).flatten(2)

    agree(made, other, stream(70), FLOAT64, [1, 33, 64])


@pytest.mark.parametrize("rule", [name for name in ("mlstm",) if name in registry.members("memory")])
def test_the_mlstm_is_the_chunked_one_of_xlstm(rule: str) -> None:
    made, x = layer(rule), stream(64)
    with torch.no_grad():
        y = xlstm.mlstm_chunkwise_native_autograd(**mlstm_parts(made.mix.memory, x), eps=0.0, chunk_size=16)
        close(reads(made, x), y.transpose(1, 2).flatten(2), FLOAT64)


def mlstm_parts(memory: Any, x: Tensor) -> dict[str, Tensor]:
    """Query, key, value [B, H, T, .] and the gates before their functions [B, H, T], from the weights of our rule."""
    heads, key = memory.heads, memory.key_dim
    k, v = memory.write(x).split([heads * key, heads * memory.val_dim], -1)
    parts = {"query": memory.query(x), "key": k, "value": v}
    forget, enter = memory.gates(x).transpose(1, 2).chunk(2, 1)
    assert torch.equal(memory.inputs(x)["forget"], logsigmoid(forget.transpose(1, 2)))
    vectors = {name: z.unflatten(-1, (heads, -1)).transpose(1, 2) for name, z in parts.items()}
    return vectors | {"igate": enter, "fgate": forget}
