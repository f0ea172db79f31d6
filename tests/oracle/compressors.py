"""Compressors: how the r tokens of a block become one write."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .window import Config, Weights


def pool(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """xs, r tokens [D], oldest first -> [D]."""
    return {"identity": identity, "mean": mean, "conv": conv, "gated": gated, "attention": attention}[cfg["compress"]](cfg, w, xs)


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


def attention(cfg: Config, w: Weights, xs: list[Tensor]) -> Tensor:
    """m learned queries, each with keys and values of its own width D / m, side by side and projected."""
    D, m = cfg["d_model"], cfg["compress_options"]["queries"]
    U, found = D // m, []
    for j in range(m):
        to_key, to_value = (
            w["compress.project.weight"][j * U : (j + 1) * U],
            w["compress.project.weight"][D + j * U : D + (j + 1) * U],
        )
        logits = [(w["compress.seed"][j] @ (to_key @ x_D)) / math.sqrt(U) + w["compress.place"][j, i] for i, x_D in enumerate(xs)]
        weights_r = torch.softmax(torch.stack(logits), dim=0)
        found.append(sum((a * (to_value @ x_D) for a, x_D in zip(weights_r, xs, strict=True)), torch.zeros(U, dtype=xs[0].dtype)))
    return w["compress.out.weight"] @ torch.cat(found)
