"""Where a model's routing looks while it reads a text: the share of each checkpoint in the gates of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.base import CachePolicy, ReadWeights, Router, RouterScores
from ..models.lm import LM

MOST = 24  # checkpoints of a map, so that it can be read on a phone
EXCERPT = 64  # tokens of a text that is shown beside it


def followed(model: nn.Module) -> list[tuple[CachePolicy, int]]:
    """The policies with routing whose checkpoint n is segment n of the text, and the tokens of their segments."""
    parts = [(getattr(x, "router", None), getattr(x, "cache", None)) for x in model.modules()]
    found = [policy for router, policy in parts if isinstance(router, Router) and isinstance(policy, CachePolicy)]
    return [(x, x.cfg.segment) for x in found if x.cfg.segments == "constant" and not x.cfg.bounded]


def routing_map(
    model: LM, ids: Tensor, samples: int = 4, text: Callable[[list[int]], str] | None = None
) -> dict[str, Any] | None:
    """`{"segment", "rows": [{"position", "shares": [share of each checkpoint]}]}` over a text ids [T]; None without routing.

    text: ids -> text. With it, each row has under "read" the text before its position, and under "most" the checkpoint with the
    largest share and the text with which it begins.
    At the end of every segment, the gates of `samples` single tokens are read: mean over heads, layers and these tokens, so that
    the shares of a row have the sum 1. At most 24 checkpoints are shown.
    """
    policies = followed(model)
    if not policies:
        return None
    segment, seen, number = policies[0][1], list[Tensor](), 0
    before = [(policy, policy.mix, vars(policy).get("mix")) for policy, size in policies if size == segment]

    def noting(mix: Any) -> Any:
        def noted(router: Router, asked: RouterScores) -> ReadWeights:
            found = mix(router, asked)
            if found.gates is not None and asked.scores.shape[1] == 1:
                gates = found.gates.float().mean(2)[0, 0]
                every = gates.new_zeros(asked.scores.shape[-1])
                seen.append(gates if found.index is None else every.scatter_add(0, found.index[0, 0], gates))
            return found

        return noted

    rows, state = [], None
    try:
        for policy, mix, _ in before:
            policy.mix = noting(mix)  # type: ignore[method-assign]
        with torch.no_grad():
            while number < MOST and (number + 1) * segment <= len(ids):
                end = (number + 1) * segment
                for part in (ids[number * segment : end - samples], *ids[end - samples : end].split(1)):
                    seen.clear() if part.numel() > 1 else None
                    _, state = model.features(part[None], state) if part.numel() else (None, state)
                number += 1
                if seen:
                    width = max(len(x) for x in seen)
                    total = torch.stack([torch.cat([x, x.new_zeros(width - len(x))]) for x in seen]).mean(0)
                    shares = (total / total.sum().clamp(min=1e-9)).cpu().tolist()
                    rows.append({"position": end, "shares": shares})
    finally:
        for policy, _, watched in before:  # a watch of routing may have replaced it too
            if watched is None:
                del policy.mix
            else:
                policy.mix = watched
    if text is not None:
        _tell(rows, ids.tolist(), segment, policies[0][0].cfg.sinks, text)
    return {"segment": segment, "rows": rows} if rows else None


def _tell(rows: list[dict[str, Any]], ids: list[int], segment: int, sinks: int, text: Callable[[list[int]], str]) -> None:
    """Adds to each row the text that was read, and that of the checkpoint that is read most."""
    for row in rows:
        end, most = row["position"], max(range(len(row["shares"])), key=row["shares"].__getitem__)
        first = sinks + most * segment
        row["read"] = text(ids[max(0, end - EXCERPT) : end])
        row["most"] = {"checkpoint": most, "text": text(ids[first : first + min(EXCERPT, segment)])}
