"""Compressors: how the r tokens of a block become one write."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .window import Config, Weights


def pool(cfg: Config, w: Weights, xs: list[Tensor], recent: list[Tensor]) -> Tensor:
    """xs, r tokens [D], oldest first, and the tokens in the window -> [D]."""
    if cfg["compress"] == "attention":
        return attention(cfg, w, xs, recent)
    return {"identity": identity, "mean": mean, "conv": conv, "gated": gated}[cfg["compress"]](cfg, w, xs)


def identity(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """The token itself."""
    (x_D,) = xs
    return x_D


def mean(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """Their mean."""
    return sum(xs, torch.zeros_like(xs[0])) / len(xs)


def conv(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """A weighted sum, with a weight a place and channel."""
    return sum((tap_D * x_D for tap_D, x_D in zip(w["compress.taps"], xs, strict=True)), torch.zeros_like(xs[0]))


def gated(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """A weighted sum whose weights add up to 1 in every channel; a token says how much it weighs in each."""
    total, norm = torch.zeros_like(xs[0]), torch.zeros_like(xs[0])
    for place_D, x_D in zip(w["compress.place"], xs, strict=True):
        weight_D = torch.exp(w["compress.gate.weight"] @ x_D + place_D)
        total, norm = total + weight_D * x_D, norm + weight_D
    return total / norm


def attention(cfg: Config, w: Weights, xs: list[Tensor], recent: list[Tensor]) -> Tensor:
    """m queries, each with keys and values of its own width D / m, side by side and projected.

    The queries are learned; with context, what they are depends on the mean of the window too.
    """
    D, m = cfg["d_model"], cfg["compress_options"]["queries"]
    U, found = D // m, []
    more_D = torch.zeros(D, dtype=xs[0].dtype)
    if cfg["compress_options"].get("context"):
        more_D = w["compress.context.weight"] @ mean(cfg, w, recent)
    for j in range(m):
        to_key, to_value = (
            w["compress.project.weight"][j * U : (j + 1) * U],
            w["compress.project.weight"][D + j * U : D + (j + 1) * U],
        )
        seed_U = w["compress.seed"][j] + more_D[j * U : (j + 1) * U]
        logits = [(seed_U @ (to_key @ x_D)) / math.sqrt(U) + w["compress.place"][j, i] for i, x_D in enumerate(xs)]
        weights_r = torch.softmax(torch.stack(logits), dim=0)
        found.append(sum((a * (to_value @ x_D) for a, x_D in zip(weights_r, xs, strict=True)), torch.zeros(U, dtype=xs[0].dtype)))
    return w["compress.out.weight"] @ torch.cat(found)
