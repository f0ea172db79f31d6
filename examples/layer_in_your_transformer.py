"""`MemoryCaching` in a plain torch transformer: it replaces attention, and has a state.

python examples/layer_in_your_transformer.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import siltstone as st


class Block(nn.Module):
    """A pre-norm block of your own. The layer itself has no norm and no residual."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = st.MemoryCaching(width, heads=4, memory="gated_delta", cache="sparse", segment=16, window=16)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, state: st.LMState | None) -> tuple[Tensor, st.LMState]:
        y, state = self.mix(self.norm(x), state)
        x = x + y
        return x + self.mlp(self.norm_mlp(x)), state


class Transformer(nn.Module):
    def __init__(self, vocabulary: int = 64, width: int = 64, depth: int = 2):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, ids: Tensor, states: list | None = None) -> tuple[Tensor, list]:
        x, after = self.embed(ids), []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, state = block(x, state)
            after.append(state)
        return self.head(x), after


torch.manual_seed(0)
model = Transformer()
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
STEPS = 40
for _ in range(STEPS):
    start, stride = torch.randint(0, 64, (8, 1)), torch.randint(1, 4, (8, 1))
    ids = (start + stride * torch.arange(64)) % 64  # each row counts, with its own stride
    logits, _ = model(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss after {STEPS} steps: {loss.item():.2f}")

with torch.no_grad():
    whole, _ = model(ids)
    states, parts = None, []
    for t in range(ids.shape[1]):  # decode: one token per call; the states carry the history
        logits, states = model(ids[:, t : t + 1], states)
        parts.append(logits)
print(f"token by token and in one call differ by {(torch.cat(parts, 1) - whole).abs().max():.0e} at most")
