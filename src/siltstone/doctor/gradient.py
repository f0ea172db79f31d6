"""The reach of gradients: |d loss_t / d x_{t-n}| against n, x the embedded input, loss_t = -log p(token t).

n = 1 is the token from which t is predicted. It is measured along all paths, and without the gradient through exact attention
(window or full): the rest passes through the memories.
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

PLACES = 4  # number of tokens t in the mean


@contextmanager
def hooked(model: LM, embedded: list[Tensor], exact: bool) -> Iterator[None]:
    """Inside the block, the embedded input of every call is a leaf tensor and is appended to `embedded`. exact: whether gradients
    pass through exact attention."""

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
    """[len(places), n] norms of d loss_t / d x_{t-1-i} for the tokens t in `places`, n = min(places). ids [1, T].

    Weights should not require gradients. The row is computed in stretches of one segment, and again for each place, so that
    memory grows little with its length. If checkpoints are rounded it is one call, as they pass no gradient to later calls.
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
    """The reach of a model's gradients on ids [1, T], in buckets of n of doubling size, ready for JSON.

    Returns {"places", "first": the mean norm at n = 1, "buckets": [{"from", "to", "all", "memory"}]}: mean norms of a bucket
    (`to` is exclusive) relative to `first`; "memory" is None for a model without memory layers.
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
