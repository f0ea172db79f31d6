"""cache="blocks": how much the last tokens attended to each block, computed again from the state."""

from __future__ import annotations

import numpy as np
import torch

from ..ops.attention import masses
from ..schedule.packed import RowPositions
from .blocks import BlockAttention
from .blocks_state import BlocksState
from .blocks_step import buffer
from .context import StepContext

Spans = dict[tuple[int, int], float]


@torch.no_grad()
def weights(mixer: BlockAttention, state: BlocksState, positions: RowPositions, tokens: int) -> Spans:
    """For each block that the last tokens chose: sum over these tokens and all heads of (attention mass * norm of the value).

    state   of one row at `positions`
    tokens  how many tokens; the state has the queries of the last `router_queries`, and the choice of the last group only
    returns the weight of each span [first, end) of token positions; sinks and near tokens have none
    """
    law, last = mixer.law, int(positions.position[0]) - 1
    group = int(law.group(np.int64(last)))
    since = last if positions.asking is not None and last >= positions.asking[0] else group  # the first token of the choice
    held = min(int(law.held(law.sealed(np.int64(group)))), law.most)
    found: Spans = {}
    if last < 0 or not held:
        return found
    blocks = state.numbers(law, 0, last + 1)[state.chosen[0, :, :held].cpu().numpy()].tolist()
    for at in range(max(since, last + 1 - min(tokens, law.queries)), last + 1):
        query = state.recent[:, at % law.queries, None]
        here = torch.tensor([at], device=query.device)
        q, key, value, mask = buffer(mixer, query, state, StepContext(here, None, {}, query.dtype, False, at + 1))
        norm = value.norm(dim=-1)[0].repeat_interleave(q.shape[1] // key.shape[1], 0)
        mass = masses(q, key, mask, mixer.cfg.scale)[0, :, 0] * norm  # [H, N]
        far = mass[:, law.sinks :][:, : held * law.block].unflatten(1, (held, law.block)).sum(2)  # [H, held]
        for chosen, shares in zip(blocks, far.unflatten(0, (len(blocks), -1)).sum(1).tolist(), strict=True):
            for block, share in zip(chosen, shares, strict=True):
                first = law.sinks + block * law.block
                found[first, first + law.block] = found.get((first, first + law.block), 0.0) + share
    return found
