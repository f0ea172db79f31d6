"""Caching policies: with what weights the online memory and the checkpoints are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rule import Matrix, l2, rms
from .segments import Entry
from .window import Config, Token, Weights


@dataclass
class RouterScores:
    """What scores are made of: the router's weights, the token, and what it asks. A layer may follow another's."""

    w: Weights
    x_D: Tensor
    online: Entry
    bank: list[Entry]


def read(cfg: Config, w: Weights, memory: Matrix, x_D: Tensor, online: Entry, bank: list[Entry], lead: RouterScores) -> Tensor:
    """The mixed memory read of one token -> [H, V]."""
    if cfg["cache"] in ("none", "exact"):
        return memory.read(online.leaves, x_D)
    if cfg["cache"] == "residual":
        return sum((memory.read(e.leaves, x_D) for e in bank), memory.read(online.leaves, x_D))
    scores = score(cfg, lead, lead.bank)
    for e in bank:
        e.reads += 1
    if cfg["cache"] == "sparse":
        keep = kept(scores, cfg["top_k"])
        bank, scores = [bank[i] for i in keep], [scores[i] for i in keep]
    gates_H = gate(cfg, w, lead, scores, bank)
    for e, g in zip(bank, gates_H[1:], strict=True):
        e.mass += float(g.detach().mean())
    entries = [online, *bank]
    if cfg["cache"] == "soup":
        blended = []
        for parts in zip(*[e.leaves for e in entries], strict=True):
            blended.append(sum(g.view(-1, *[1] * (p.dim() - 1)) * p for g, p in zip(gates_H, parts, strict=True)))
        return memory.read(tuple(blended), x_D)
    out = torch.zeros(memory.H, memory.V, dtype=x_D.dtype)
    for g, e in zip(gates_H, entries, strict=True):
        out = out + g[:, None] * memory.read(e.leaves, x_D)
    return out


def beside(w: Weights, memory: Matrix, x_D: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """sum_n softmax_n(exp(s_h) <q, k_n>) v_n over pairs of key [H, K] and value [H, V], normalised -> [H, V]."""
    out_HV = torch.zeros(memory.H, memory.V, dtype=x_D.dtype)
    if pairs:
        logits = [w["pairs.log_scale"].exp() * (memory.query(x_D) * k_HK).sum(-1) for k_HK, _ in pairs]
        shares_NH = torch.softmax(torch.stack(logits), dim=0)
        out_HV = sum((s_H[:, None] * v_HV for s_H, (_, v_HV) in zip(shares_NH, pairs, strict=True)), out_HV)
    return rms(out_HV, w["pairs.norm"], 1e-6)


class Store:
    """The writes of cache="exact": the `most` with the largest surprise, of equals the most recent, with their tokens."""

    def __init__(self, most: int):
        self.most, self.count = most, 0
        self.kept: list[tuple[float, int, list[Any]]] = []

    def offer(self, surprise: float, tokens: list[Any]) -> None:
        """One more write, with its tokens, or what else is kept of it."""
        self.kept.append((surprise, self.count, tokens))
        self.kept = sorted(self.kept, key=lambda write: write[:2])[-self.most :]
        self.count += 1

    def beyond(self, visible: list[Token]) -> list[Token]:
        """The tokens of all kept writes but those that are visible anyway."""
        shown = [j for j, _ in visible]
        return [token for _, _, tokens in self.kept for token in tokens if token[0] not in shown]


def score(cfg: Config, lead: RouterScores, entries: list[Entry]) -> list[Tensor]:
    """s_n = <u, mean key>, shared by heads; with sub-blocks of m writes, log(sum over them of exp(b s)) / b, b = 8 sqrt(m). A key
    that an anchor read stands alone: m = 1."""
    u = l2(lead.w["router.query.weight"] @ lead.x_D)
    router, found = cfg.get("router", "mean"), []
    for e in entries:
        each = [(u * torch.stack(keys).mean(0)).sum() for keys in e.blocks if keys]
        if router == "mean":
            (only,) = each
            found.append(only)
        else:
            sharp = 8 * math.sqrt(writes(cfg))
            found.append(torch.log(sum((torch.exp(sharp * s) for s in each), torch.zeros_like(each[0]))) / sharp)
    return found


def writes(cfg: Config) -> int:
    """How many writes a routing key stands for."""
    name, _, size = cfg.get("router", "mean").partition(":")
    return 1 if name == "anchor" else (cfg["segment"] if name == "mean" else int(size)) // cfg["rate"]


def kept(scores: list[Tensor], top_k: int) -> list[int]:
    """Indices of the top_k best scores, ascending, compared in whole steps of 1/4096; of equals, the most recent."""
    best = sorted(range(len(scores)), key=lambda n: (round(4096 * float(scores[n].detach())), n), reverse=True)
    return sorted(best[:top_k])


def gate(cfg: Config, w: Weights, lead: RouterScores, scores: list[Tensor], bank: list[Entry]) -> list[Tensor]:
    """[g_online, g_1, ...], each [H]. sigmoid leaves the online memory at 1. alibi: less by slope_h for every segment away."""
    H, scale_H = cfg["heads"], w["router.log_scale"].exp() * math.sqrt(writes(cfg))
    slope_H = torch.tensor([2 ** (-8 * (h + 1) / H) for h in range(H)], dtype=scale_H.dtype)
    if cfg.get("gate_distance", "none") == "none":
        slope_H = torch.zeros_like(slope_H)
    logits = [scale_H * s + w["router.bias"] - slope_H * e.age for s, e in zip(scores, bank, strict=True)]
    if cfg["gate"] == "sigmoid":
        return [torch.ones_like(scale_H), *[torch.sigmoid(z) for z in logits]]
    online_logit = scale_H * score(cfg, lead, [lead.online])[0] + w["router.online"]
    return list(torch.softmax(torch.stack([online_logit, *logits]), dim=0))
