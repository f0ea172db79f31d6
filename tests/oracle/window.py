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


def radians(cfg: Config, pair: int, key_dim: int) -> float:
    """Radians per token of a pair: theta^(-2 pair / K), or as `rope_scaling` slows it down."""
    theta, scaling = cfg.get("rope_theta", 10000), cfg.get("rope_scaling") or {"type": "none"}
    f = theta ** (-2 * pair / key_dim)
    length = scaling.get("original_max_position_embeddings", 0)
    if scaling["type"] == "linear":
        return f / scaling["factor"]
    if scaling["type"] == "llama3":
        wave = 2 * math.pi / f
        if wave < length / scaling["high_freq_factor"]:
            return f
        if wave > length / scaling["low_freq_factor"]:
            return f / scaling["factor"]
        smooth = (length / wave - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        return (1 - smooth) * f / scaling["factor"] + smooth * f
    if scaling["type"] == "yarn":

        def place(turns_made: float) -> float:
            return key_dim * math.log(length / (turns_made * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(place(scaling.get("beta_fast", 32))), 0)
        high = min(math.ceil(place(scaling.get("beta_slow", 1))), key_dim - 1)
        ramp = min(max((pair - low) / (high - low or 0.001), 0), 1)
        return f * (1 - ramp) + f / scaling["factor"] * ramp
    return f


def sharper(cfg: Config) -> float:
    """By what yarn multiplies the logits."""
    scaling = cfg.get("rope_scaling") or {}
    if scaling.get("type") != "yarn" or cfg["position"] != "rope":
        return 1.0
    return scaling.get("attention_factor", 0.1 * math.log(scaling["factor"]) + 1) ** 2


def turns(pair: int, key_dim: int, cfg: Config | None = None) -> int:
    """Turns per token of pair `pair`, in units of 2^-31 turn: 10000^(-2 pair / K) / (2 pi), rounded."""
    return round(radians(cfg or {}, pair, key_dim) / (2 * math.pi) * FULL_TURN)


def rotate(z_HK: Tensor, distance: int, cfg: Config | None = None) -> Tensor:
    """Turn pairs (i, i + K/2) of every head by distance * f_i turns; whole numbers, so exact at any distance."""
    half = z_HK.shape[-1] // 2
    angles = [2 * math.pi * ((distance * turns(i, 2 * half, cfg)) % FULL_TURN) / FULL_TURN for i in range(half)]
    cos = torch.tensor([math.cos(a) for a in angles], dtype=z_HK.dtype)
    sin = torch.tensor([math.sin(a) for a in angles], dtype=z_HK.dtype)
    first, second = z_HK[..., :half], z_HK[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def slope(head: int, heads: int) -> float:
    """By how much a logit of a head falls with each token of distance: 2^(-8/H), 2^(-16/H), ... 2^-8."""
    return 2.0 ** (-8 * (head + 1) / heads)


def normed(z_HK: Tensor, weight: Tensor, eps: float = 1e-6, together: bool = False) -> Tensor:
    """Every head over its root mean square, times a weight [K] that the heads share; `together`: all heads, weight [H * K]."""
    z = z_HK.reshape(1, -1) if together else z_HK
    return (z * torch.rsqrt((z * z).mean(-1, keepdim=True) + eps) * weight).view_as(z_HK)


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


def project(cfg: Config, w: Weights, x_D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query [H, K], key [J, K] and value [J, V] of a token, not rotated.

    `window.qkv.weight` [H*K + J*K + J*V, D] holds the three projections, in this order, each head-major.
    """
    H, K, V = sizes(cfg)
    J = cfg.get("kv_heads") or H
    to_q, to_k, to_v = w["window.qkv.weight"].split([H * K, J * K, J * V])
    bias = w.get("window.qkv.bias", x_D.new_zeros(H * K + J * K + J * V))
    add_q, add_k, add_v = bias.split([H * K, J * K, J * V])
    q_HK, k_JK = (to_q @ x_D + add_q).view(H, K), (to_k @ x_D + add_k).view(J, K)
    if cfg.get("qk_norm"):
        eps, together = cfg.get("qk_norm_eps", 1e-6), cfg["qk_norm"] == "all"
        q_HK, k_JK = normed(q_HK, w["window.q_norm"], eps, together), normed(k_JK, w["window.k_norm"], eps, together)
    return q_HK, k_JK, (to_v @ x_D + add_v).view(J, V)


def attend(
    cfg: Config, w: Weights, x_D: Tensor, t: int, sinks: list[Token], others: list[Token], stored: Sequence[Token] = ()
) -> Tensor:
    """softmax(<R(distance) q_t, k_j> / sqrt(K) - slope distance) v_j over sinks and other visible tokens, t among them -> [H, V].

    Stored tokens are seen where the last sink is seen (or would be, the token just before those that are no sinks).
    Head h of the queries looks at head h // (H / J) of the keys and values. One of R(distance) and slope is there, or none.
    """
    H, K, V = sizes(cfg)
    J = cfg.get("kv_heads") or H
    q_HK, _, _ = project(cfg, w, x_D)
    logits, values = [], []
    for kind, tokens in (("sink", sinks), ("stored", stored), ("other", others)):
        for j, x_j in tokens:
            place = cfg["sinks"] - 1 if kind == "stored" else j
            distance = distance_to(cfg, t, place, kind != "other")
            _, k_JK, v_JV = project(cfg, w, x_j)
            k_HK = torch.stack([k_JK[h // (H // J)] for h in range(H)])
            turned = rotate(q_HK, distance, cfg) if cfg["position"] == "rope" else q_HK
            logit_H = (turned * k_HK).sum(-1) / math.sqrt(K) * sharper(cfg)
            if cfg["position"] == "alibi":
                logit_H = logit_H - torch.tensor([slope(h, H) * distance for h in range(H)], dtype=x_D.dtype)
            logits.append(logit_H)
            values.append(torch.stack([v_JV[h // (H // J)] for h in range(H)]))
    if not logits:
        return x_D.new_zeros(H, V)
    weights_NH = torch.softmax(torch.stack(logits), dim=0)
    return (weights_NH[..., None] * torch.stack(values)).sum(0)
