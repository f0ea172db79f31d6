"""Exact attention over a list of visible tokens; rotary positions and linear biases depend on distances alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Config = dict[str, Any]
Weights = dict[str, Tensor]
Token = tuple[int, Tensor]  # (position in the row's life, x [D])

FULL_TURN = 2**31


def turns(pair: int, key_dim: int) -> int:
    """Turns per token of pair `pair`, in units of 2^-31 turn: 10000^(-2 pair / K) / (2 pi), rounded."""
    return round(10000 ** (-2 * pair / key_dim) / (2 * math.pi) * FULL_TURN)


def rotate(z_HK: Tensor, distance: int) -> Tensor:
    """Turn pairs (i, i + K/2) of every head by distance * f_i turns; whole numbers, so exact at any distance."""
    half = z_HK.shape[-1] // 2
    angles = [2 * math.pi * ((distance * turns(i, 2 * half)) % FULL_TURN) / FULL_TURN for i in range(half)]
    cos = torch.tensor([math.cos(a) for a in angles], dtype=z_HK.dtype)
    sin = torch.tensor([math.sin(a) for a in angles], dtype=z_HK.dtype)
    first, second = z_HK[..., :half], z_HK[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def slope(head: int, heads: int) -> float:
    """By how much a logit of a head falls with each token of distance: 2^(-8/H), 2^(-16/H), ... 2^-8."""
    return 2.0 ** (-8 * (head + 1) / heads)


def normed(z_HK: Tensor, weight_K: Tensor) -> Tensor:
    """Every head over its root mean square, times a weight that the heads share."""
    return z_HK * torch.rsqrt((z_HK * z_HK).mean(-1, keepdim=True) + 1e-6) * weight_K


def sizes(cfg: Config) -> tuple[int, int, int]:
    """H heads, K key width, V value width."""
    K = cfg.get("head_dim") or cfg["d_model"] // cfg["heads"]
    return cfg["heads"], K, cfg.get("value_dim") or K


def every(cfg: Config) -> int:
    """Tokens that leave before the memory is updated."""
    return cfg.get("compress_every") or cfg["rate"]


def distance_to(cfg: Config, t: int, j: int, is_sink: bool) -> int:
    """How far the query of token t sees the key of token j: sinks never drift further than just before the window."""
    if not is_sink:
        return t - j
    return min(t, cfg["window"] + every(cfg) - 2 + cfg["sinks"]) - j


def attend(
    cfg: Config, w: Weights, x_D: Tensor, t: int, sinks: list[Token], others: list[Token], stored: Sequence[Token] = ()
) -> Tensor:
    """softmax(<R(distance) q_t, k_j> / sqrt(K) - slope distance) v_j over sinks and other visible tokens, t among them -> [H, V].

    Stored tokens are seen where the last sink is seen (or would be, the token just before those that are no sinks).
    `window.qkv.weight` [H*K + J*K + J*V, D] holds the three projections, in this order, each head-major; head h of the
    queries looks at head h // (H / J) of the keys and values. One of R(distance) and slope is there, or none.
    """
    H, K, V = sizes(cfg)
    J = cfg.get("kv_heads") or H
    to_q, to_k, to_v = w["window.qkv.weight"].split([H * K, J * K, J * V])
    q_HK = (to_q @ x_D).view(H, K)
    if cfg.get("qk_norm"):
        q_HK = normed(q_HK, w["window.q_norm"])
    logits, values = [], []
    for kind, tokens in (("sink", sinks), ("stored", stored), ("other", others)):
        for j, x_j in tokens:
            place = cfg["sinks"] - 1 if kind == "stored" else j
            distance, k_JK = distance_to(cfg, t, place, kind != "other"), (to_k @ x_j).view(J, K)
            if cfg.get("qk_norm"):
                k_JK = normed(k_JK, w["window.k_norm"])
            k_HK = torch.stack([k_JK[h // (H // J)] for h in range(H)])
            turned = rotate(q_HK, distance) if cfg["position"] == "rope" else q_HK
            logit_H = (turned * k_HK).sum(-1) / math.sqrt(K)
            if cfg["position"] == "alibi":
                logit_H = logit_H - torch.tensor([slope(h, H) * distance for h in range(H)], dtype=x_D.dtype)
            logits.append(logit_H)
            v_JV = (to_v @ x_j).view(J, V)
            values.append(torch.stack([v_JV[h // (H // J)] for h in range(H)]))
    if not logits:
        return x_D.new_zeros(H, V)
    weights_NH = torch.softmax(torch.stack(logits), dim=0)
    return (weights_NH[..., None] * torch.stack(values)).sum(0)
