"""The oracle's language model put together."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import embedding, rms_norm

from .layer import run as run_layer
from .lm import below, block_configs, mlp, run
from .weights import BASE, layer_weights
from .window import Config, Weights


def model_weights(cfg: Config) -> Weights:
    gen = torch.Generator().manual_seed(5)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=gen, dtype=torch.float64) * 0.5

    w = {"embed.weight": rand(11, 8), "norm.weight": rand(8), "unembed.weight": rand(11, 8)}
    for i in range(cfg["depth"]):
        mix = layer_weights(cfg, seed=i)
        w |= {f"blocks.{i}.mix.{n}": p for n, p in mix.items()}
        w |= {f"blocks.{i}.norm_mix.weight": rand(8), f"blocks.{i}.norm_mlp.weight": rand(8)}
        w |= {f"blocks.{i}.mlp.{n}.weight": rand(16, 8) for n in ("up", "gate")}
        w |= {f"blocks.{i}.mlp.down.weight": rand(8, 16)}
    return w


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("pattern", ["m", "w", "a"])
def test_one_block_is_written_out(mlp: str, tie: bool, pattern: str) -> None:
    cfg = BASE | dict(pattern=pattern, depth=1, mlp=mlp, tie=tie, norm_eps=1e-5)
    w, ids = model_weights(cfg), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5])
    x = embedding(ids, w["embed.weight"])
    mix = {n.removeprefix("blocks.0.mix."): p for n, p in w.items()}
    kind = {"m": "memory", "w": "window", "a": "attention"}[pattern]
    x = x + run_layer(cfg, mix, rms_norm(x, (8,), w["blocks.0.norm_mix.weight"], 1e-5), kind=kind)
    z = rms_norm(x, (8,), w["blocks.0.norm_mlp.weight"], 1e-5)
    up, gate = z @ w["blocks.0.mlp.up.weight"].T, z @ w["blocks.0.mlp.gate.weight"].T
    hidden = torch.nn.functional.gelu(up) if mlp == "gelu" else gate * torch.sigmoid(gate) * up
    x = x + hidden @ w["blocks.0.mlp.down.weight"].T
    want = rms_norm(x, (8,), w["norm.weight"], 1e-5) @ w["embed.weight" if tie else "unembed.weight"].T
    assert torch.allclose(run(cfg, w, ids.tolist()), want, rtol=0, atol=1e-12)


def test_blocks_differ_where_the_configuration_says_so() -> None:
    cfg = BASE | dict(pattern="m", depth=2, mlp="swiglu", tie=True, norm_eps=1e-6, memory="linear")
    cfg |= dict(memory_options=dict(feature="elu"), layers={"-1": dict(memory="delta", window=2, short_conv=2)})
    w = model_weights(cfg)
    w |= {f"blocks.1.mix.{n}": p for n, p in layer_weights(block_configs(cfg)[1], seed=1).items()}
    x = embedding(torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5]), w["embed.weight"])
    keys = [cfg, BASE | dict(memory="delta", memory_options={}, window=2, short_conv=2)]
    for i in range(2):
        part = below(w, f"blocks.{i}.")
        x = x + run_layer(keys[i], below(part, "mix."), rms_norm(x, (8,), part["norm_mix.weight"], 1e-6))
        z = rms_norm(x, (8,), part["norm_mlp.weight"], 1e-6)
        x = x + torch.stack([mlp(cfg, below(part, "mlp."), z_D) for z_D in z])
    want = rms_norm(x, (8,), w["norm.weight"], 1e-6) @ w["embed.weight"].T
    assert torch.allclose(run(cfg, w, [3, 1, 4, 1, 5, 9, 2, 6, 5]), want, rtol=0, atol=1e-12)


def test_patterns_repeat_and_logits_are_causal() -> None:
    cfg = BASE | dict(pattern="m w a", depth=4, mlp="swiglu", tie=True, norm_eps=1e-6)
    w = model_weights(cfg)
    ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    a, b = run(cfg, w, ids), run(cfg, w, [*ids[:8], 0, 0, 0])
    assert torch.equal(a[:8], b[:8])
    assert not torch.allclose(a[8:], b[8:])
