"""Caching policies: with what weights the online memory and the checkpoints are read."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .memories import Matrix, l2
from .segments import Entry
from .window import Config, Weights


def read(cfg: Config, w: Weights, memory: Matrix, x_D: Tensor, online: Entry, bank: list[Entry]) -> Tensor:
    """The mixed memory read of one token -> [H, V]."""
    if cfg["cache"] == "none":
        return memory.read(online[0], x_D)
    if cfg["cache"] == "residual":
        return sum((memory.read(leaves, x_D) for leaves, _ in bank), memory.read(online[0], x_D))
    scores = score(w, x_D, bank)
    if cfg["cache"] == "sparse":
        keep = kept(scores, cfg["top_k"])
        bank, scores = [bank[i] for i in keep], [scores[i] for i in keep]
    gates_H = gate(cfg, w, x_D, online, scores)
    entries = [online, *bank]
    if cfg["cache"] == "soup":
        blended = []
        for parts in zip(*[leaves for leaves, _ in entries], strict=True):
            blended.append(sum(g.view(-1, *[1] * (p.dim() - 1)) * p for g, p in zip(gates_H, parts, strict=True)))
        return memory.read(tuple(blended), x_D)
    out = torch.zeros(memory.H, memory.V, dtype=x_D.dtype)
    for g, (leaves, _) in zip(gates_H, entries, strict=True):
        out = out + g[:, None] * memory.read(leaves, x_D)
    return out


def score(w: Weights, x_D: Tensor, bank: list[Entry]) -> list[Tensor]:
    """s_n = <u, summary_n>, shared by the heads."""
    u = l2(w["router.query.weight"] @ x_D)
    return [(u * summary).sum() for _, summary in bank if summary is not None]


def kept(scores: list[Tensor], top_k: int) -> list[int]:
    """Indices of the top_k best scores, ascending; of equals, the most recent."""
    best = sorted(range(len(scores)), key=lambda n: (float(scores[n].detach()), n), reverse=True)
    return sorted(best[:top_k])


def gate(cfg: Config, w: Weights, x_D: Tensor, online: Entry, scores: list[Tensor]) -> list[Tensor]:
    """[g_online, g_1, ...], each [H]. sigmoid leaves the online memory at 1."""
    scale_H = w["router.log_scale"].exp() * math.sqrt(cfg["segment"] / cfg["rate"])
    logits = [scale_H * s + w["router.bias"] for s in scores]
    if cfg["gate"] == "sigmoid":
        return [torch.ones_like(scale_H), *[torch.sigmoid(z) for z in logits]]
    online_logit = scale_H * score(w, x_D, [online])[0] + w["router.online"]
    return list(torch.softmax(torch.stack([online_logit, *logits]), dim=0))
