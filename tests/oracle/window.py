"""Exact attention over a list of visible tokens, with rotary positions that depend on distances alone."""

from __future__ import annotations

import math
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


def sizes(cfg: Config) -> tuple[int, int, int]:
    """H heads, K key width, V value width."""
    K = cfg.get("head_dim") or cfg["d_model"] // cfg["heads"]
    return cfg["heads"], K, cfg.get("value_dim") or K


def distance_to(cfg: Config, t: int, j: int, is_sink: bool) -> int:
    """How far the query of token t sees the key of token j: sinks never drift further than just before the window."""
    if not is_sink:
        return t - j
    return min(t, cfg["window"] + cfg["rate"] - 2 + cfg["sinks"]) - j


def attend(cfg: Config, qkv: Tensor, x_D: Tensor, t: int, sinks: list[Token], others: list[Token], stored: list[Token]) -> Tensor:
    """softmax(<R(distance) q_t, k_j> / sqrt(K)) v_j over sinks and other visible tokens (t itself among them) -> [H, V].

    Stored tokens are seen where the last sink is seen (or would be, the token just before those that are no sinks).
    `qkv` [H*K + H*K + H*V, D] holds the three projections, in this order, each head-major.
    """
    H, K, V = sizes(cfg)
    to_q, to_k, to_v = qkv.split([H * K, H * K, H * V])
    q_HK = (to_q @ x_D).view(H, K)
    logits, values = [], []
    for kind, tokens in (("sink", sinks), ("stored", stored), ("other", others)):
        for j, x_j in tokens:
            place = cfg["sinks"] - 1 if kind == "stored" else j
            k_HK = (to_k @ x_j).view(H, K)
            turned = rotate(q_HK, distance_to(cfg, t, place, kind != "other")) if cfg["position"] == "rope" else q_HK
            logits.append((turned * k_HK).sum(-1) / math.sqrt(K))
            values.append((to_v @ x_j).view(H, V))
    if not logits:
        return x_D.new_zeros(H, V)
    weights_NH = torch.softmax(torch.stack(logits), dim=0)
    return (weights_NH[..., None] * torch.stack(values)).sum(0)
