"""The oracle's window against closed forms and torch's own attention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import conv1d, pad, rms_norm, scaled_dot_product_attention

from .layer import Row, run
from .weights import BASE, layer_weights, stream
from .window import attend, distance_to, rotate, slope, turns


def test_turns_are_the_usual_frequencies() -> None:
    assert turns(0, 64) == round(2**31 / (2 * math.pi))
    for i in range(32):
        assert turns(i, 64) * 2 * math.pi / 2**31 == pytest.approx(10000 ** (-i / 32), abs=2e-9)


def test_rotation_of_one_pair() -> None:
    z = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(rotate(z, 3), torch.tensor([[math.cos(3), math.sin(3)]], dtype=torch.float64), atol=1e-8)


def test_turning_the_query_by_the_distance_is_turning_both_by_their_positions() -> None:
    q, k = stream(2, 6, seed=2)[:, None]
    both = (rotate(q, 10_000_007) * rotate(k, 10_000_002)).sum()
    assert torch.allclose((rotate(q, 5) * k).sum(), both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("delay,rate,sinks,window", [*itertools.product(["window", 0], [1, 2, 3], [0, 2], [2, 5])])
def test_visible_tokens_and_writes_are_the_closed_form(delay: str | int, rate: int, sinks: int, window: int) -> None:
    cfg = BASE | dict(write_delay=delay, rate=rate, sinks=sinks, window=window, compress="mean", segment=6)
    row = Row(cfg, layer_weights(cfg))
    for t in range(20):
        row.push(torch.full((8,), float(t), dtype=torch.float64))
        assert row.bank is not None
        left = max(0, t + 1 - (window if delay else 0) - sinks)
        assert row.bank.count == left // rate
        edge = sinks + rate * (left // rate) if delay else t - window + 1
        seen = [j for j, _ in row.sinks + row.visible()]
        assert seen == [j for j in range(t + 1) if j < sinks or j >= edge]
        written = [c for segment in row.bank.segments for c in segment]
        blocks = [range(sinks + m * rate, sinks + (m + 1) * rate) for m in range(left // rate)]
        assert [float(c[0]) for c in written] == [sum(b) / rate for b in blocks]
        row.t += 1


def test_sinks_stay_just_behind_the_farthest_key() -> None:
    cfg = BASE | dict(window=4, rate=3, sinks=2)
    assert [distance_to(cfg, t, 1, True) for t in (1, 3, 6, 7, 8, 1000)] == [0, 2, 5, 6, 6, 6]
    assert distance_to(cfg, 1000, 0, True) == 7  # the farthest other key is at W + r - 2 = 5


def test_equal_keys_average_the_values() -> None:
    cfg = BASE | dict(d_model=2, heads=1, head_dim=2)
    w = {"window.qkv.weight": torch.cat([torch.zeros(4, 2), torch.eye(2)]).double()}
    tokens = [(j, torch.tensor([float(j), 1.0], dtype=torch.float64)) for j in range(3)]
    assert torch.equal(attend(cfg, w, tokens[2][1], 2, [], tokens), torch.tensor([[1.0, 1.0]], dtype=torch.float64))


def test_full_attention_is_torchs() -> None:
    cfg = BASE | dict(position="none", memory="gated")
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).view(3, 2, 4, 9).transpose(2, 3)
    want = scaled_dot_product_attention(q, k, v, is_causal=True).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert torch.allclose(run(cfg, w, x, kind="attention"), want, rtol=0, atol=1e-13)


def test_a_window_of_w_is_torchs_with_a_band() -> None:
    cfg = BASE | dict(position="none", window=4)
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).view(3, 2, 4, 9).transpose(2, 3)
    band = torch.ones(9, 9).tril().bool() & torch.ones(9, 9).triu(-3).bool()
    want = scaled_dot_product_attention(q, k, v, attn_mask=band).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert torch.allclose(run(cfg, w, x, kind="window"), want, rtol=0, atol=1e-13)


def test_rotary_attention_is_the_textbooks() -> None:
    cfg = BASE | dict(position="rope")
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).view(3, 2, 4, 9).transpose(2, 3)
    angle = torch.arange(9).double()[:, None] * 10000 ** (-torch.arange(2).double() / 2)

    def turn(z: torch.Tensor) -> torch.Tensor:
        pair = torch.complex(z[..., :2], z[..., 2:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([pair.real, pair.imag], -1)

    want = scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert (run(cfg, w, x, kind="attention") - want).abs().max() < 1e-6


def test_linear_biases_are_torchs_with_a_mask() -> None:
    cfg = BASE | dict(position="alibi")
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).view(3, 2, 4, 9).transpose(2, 3)
    distance = (torch.arange(9)[:, None] - torch.arange(9)).double()
    bias = -torch.tensor([1 / 16, 1 / 256]).double()[:, None, None] * distance  # the slopes of two heads
    bias = bias.masked_fill(distance < 0, -math.inf)
    want = scaled_dot_product_attention(q, k, v, attn_mask=bias).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert torch.allclose(run(cfg, w, x, kind="attention"), want, rtol=0, atol=1e-13)


def test_eight_heads_have_the_papers_slopes() -> None:
    assert [slope(h, 8) for h in range(8)] == [2.0 ** -(h + 1) for h in range(8)]


def test_shared_keys_are_repeated_keys() -> None:
    cfg = BASE | dict(heads=4, head_dim=2, kv_heads=2, position="none")
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).split([8, 4, 4])
    q, k, v = (z.view(-1, 2, 9).transpose(1, 2) for z in (q, k, v))
    k, v = k[[0, 0, 1, 1]], v[[0, 0, 1, 1]]
    want = scaled_dot_product_attention(q, k, v, is_causal=True).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert torch.allclose(run(cfg, w, x, kind="attention"), want, rtol=0, atol=1e-13)


def test_queries_and_keys_are_normalised_before_they_are_turned() -> None:
    cfg = BASE | dict(position="rope", qk_norm=True)
    w, x = layer_weights(cfg), stream(9)
    q, k, v = (w["window.qkv.weight"] @ x.T).view(3, 2, 4, 9).transpose(2, 3)
    q, k = rms_norm(q, (4,), w["window.q_norm"], 1e-6), rms_norm(k, (4,), w["window.k_norm"], 1e-6)
    q, k = (torch.stack([rotate(z[:, t], t) for t in range(9)], 1) for z in (q, k))
    want = scaled_dot_product_attention(q, k, v, is_causal=True).permute(1, 0, 2).reshape(9, 8) @ w["out.weight"].T
    assert torch.allclose(run(cfg, w, x, kind="attention"), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["memory", "window", "attention"])
def test_the_short_convolution_is_torchs(kind: str) -> None:
    cfg = BASE | dict(short_conv=3)
    w, x = layer_weights(cfg), stream(9)
    taps = w["conv.taps"].flip(0).T[:, None]  # torch's lie in order of time, [D, 1, width]
    convolved = x + conv1d(pad(x.T, (2, 0)), taps, groups=8).T
    assert torch.allclose(run(cfg, w, x, kind=kind), run(BASE, w, convolved, kind=kind), rtol=0, atol=1e-13)


def test_a_shifted_row_goes_on_as_before() -> None:
    cfg = BASE | dict(sinks=2, window=4, short_conv=2)
    w, x = layer_weights(cfg), stream(24)
    row = Row(cfg, w)
    near = [row.step(x_D) for x_D in x]
    row = Row(cfg, w)
    for x_D in x[:12]:
        row.step(x_D)
    row.shift(10_000_000)
    far = [row.step(x_D) for x_D in x[12:]]
    assert torch.allclose(torch.stack(far), torch.stack(near[12:]), rtol=0, atol=1e-12)
