"""The recipe of mqar256.json: nine arms on up to 64 pairs in 256 tokens, as far as one core comes in 7.7 minutes."""

from siltstone.train.lab import Lab
from siltstone.train.recipe import Recipe

ARMS = ("transformer", "window only", "plain recurrence", "one state of equal bytes", "gated", "gated, sub-blocks")
ARMS += ("soup", "sparse", "exact")


def pairs() -> Lab:
    """Nine arms, five seeds; in the committed results, 24 of these 45 runs."""
    base = dict(d_model=64, heads=2, depth=2, mlp_dim=640, window=16, segment=32, segments="constant", tie=False, short_conv=4)
    base |= dict(router="subblock:4", memory="gated_delta", top_k=4, cache="gated")
    recipe = Recipe(steps=2400, minutes=7.7, batch=16, save_every=100_000)
    options = dict(vocab_size=512, loads=(8, 16, 32, 64), fillers="zero")
    question, seeds = "Which arms learn up to 64 pairs in 256 tokens in 7.7 minutes on one core?", (0, 1, 2, 3, 4)
    return Lab(question, "mqar", base, recipe, (256,), (256, 512, 1024), options, arms=ARMS, seeds=seeds, items=48)
