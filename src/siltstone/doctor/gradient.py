"""How far gradients reach: |d loss_t / d x_{t-n}| against n, x the embedded input, loss_t = -log p(token t).

At n = 1 stands the token that t is predicted from. Once along all paths, and once with nothing that the exact attention
(window or full) reads passing a gradient on: what is left goes through the memories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.attention import Attention
from ..layers.window import WindowAttention
from ..models.lm import LM
from ..ops.upcast import upcast
from ..train import recompute

PLACES = 4  # tokens t that are averaged over


@contextmanager
def hooked(model: LM, embedded: list[Tensor], exact: bool) -> Iterator[None]:
    """Inside the block every call's embedded input is a leaf, kept in `embedded`; without `exact` no gradient passes through
    what exact attention reads."""

    def leaf(_: Any, __: Any, out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1]

    handles = [model.embed.register_forward_hook(leaf)]
    if not exact:
        reads = [m for m in model.modules() if isinstance(m, WindowAttention | Attention)]
        handles += [m.register_forward_hook(lambda _, __, out: (out[0].detach(), out[1])) for m in reads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def norms(model: LM, ids: Tensor, places: list[int], exact: bool = True, tick: Callable[[], None] = lambda: None) -> Tensor:
    """[len(places), n] norms of d loss_t / d x_{t-1-i} for the tokens t of `places`, n the least of them. ids [1, T].

    Weights should not require gradients. The row is run in stretches of a segment that are run again for each place, so
    that memory grows little with its length; in one call where checkpoints are rounded, which pass no gradient to later ones.
    """
    least, xs = min(places), list[Tensor]()
    with torch.enable_grad(), hooked(model, xs, exact):
        hidden, _ = model.features(ids) if model.cfg.rounded else recompute.features(model, ids)
        inputs = xs[:]
        logits = upcast(model.head(hidden[0, [t - 1 for t in places]]))
        losses = F.cross_entropy(logits, ids[0, places], reduction="none")
        out = []
        for i, t in enumerate(places):
            grads = [torch.zeros_like(x) for x in inputs]
            if losses[i].requires_grad:
                grads = torch.autograd.grad(losses[i], inputs, retain_graph=True, materialize_grads=True)
            out.append(torch.cat(grads, 1)[0, :t].norm(dim=-1).flip(0)[:least].detach())
            xs.clear()
            tick()
    return torch.stack(out)


def profile(model: LM, ids: Tensor, seed: int, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The reach of a model's gradients on ids [1, T], in buckets of n that double, ready for JSON.

    Returns {"places", "first": the mean norm at n = 1, "buckets": [{"from", "to", "all", "memory"}]}: mean norms of a bucket
    (its `to` is not in it) relative to `first`; "memory" is None for a model without memory layers.
    """
    length = ids.shape[1]
    random = np.random.default_rng([seed, 99])
    last = np.arange(max(1, length - length // 4), length)
    places = sorted(random.choice(last, min(PLACES, len(last)), replace=False).tolist())
    through = norms(model, ids, places, True, tick).double().cpu()
    alone = norms(model, ids, places, False, tick).double().cpu() if "memory" in model.cfg.kinds else None
    first, buckets, begin = float(through[:, 0].mean()), [], 1
    while begin <= through.shape[1]:
        part = slice(begin - 1, 2 * begin - 1)
        bucket: dict[str, Any] = {"from": begin, "to": min(2 * begin, through.shape[1] + 1)}
        bucket["all"] = float(through[:, part].mean()) / first if first else None
        bucket["memory"] = float(alone[:, part].mean()) / first if first and alone is not None else None
        buckets.append(bucket)
        begin *= 2
    return {"places": places, "first": first, "buckets": buckets}
