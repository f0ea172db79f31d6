"""Blocks: exact keys and values of all tokens, in blocks of `segment` tokens; a token attends to the `top_k` best of them.

There is no compressed memory. A token attends, in one softmax, to sinks, chosen blocks, and the tokens since the last sealed
block, at positions counted inside that buffer: no rotation is larger than the buffer, however long the text. A group of tokens
begins at each multiple of `route_every`, and in rows that ask (`Session.asking`) also with every token. The blocks of each
key-value head are then chosen by

    mass_b = sum over the `router_queries` queries before the group, the head's queries and the sub-blocks m of b of
             softmax_m(q . mean_m / sqrt(K))

over the blocks that were sealed when the query was made, in steps of 2^-12 (ties go to the latest block). mean_m is the mean of
the keys of sub-block m, not rotated (`router="subblock:m"`). With `coarse`, and more than `coarse_from` tokens in blocks, the
same sum with means of `coarse` keys first chooses `candidates` blocks, and only these are compared, except in rows that ask.
These compare all blocks; with `exact` the best `exact` of them again, by the same sum over the keys themselves; with `votes` by

    votes * mass_b + sum over the heads of the layers below of mass_b

with the masses of a first stage, of layers with the same options, window and segment: what a layer has found, those above see
too. The choice carries no gradient; the keys do.
Source: arXiv 2502.13189 and 2406.10774 (blocks chosen by summaries of their keys), 2402.04617 (positions inside the buffer).
State: J (K + V) for every token, and J K for every sub-block.
Cost: `top_k * segment` more keys for the window, and the scores of all sub-blocks once in `route_every` tokens.

For: exact recall from any place of a long text; pretrained decoders, whose weights it leaves as they are.
Can: return a passage word for word at any distance; every token attended to has a place in the text.
Cannot: keep every block in a state of fixed size; use blocks that the routing does not find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..config.layer import LayerConfig, whole
from ..errors import ConfigError
from .base import CachePolicy, ReadWeights, Router, RouterScores


@dataclass(frozen=True)
class BlocksOptions:
    """router_queries: the last queries that choose. route_every: tokens between two choices. coarse: tokens of a coarse routing
    key; 0: there are none. coarse_from: tokens in blocks from which coarse keys choose candidates. candidates: blocks a head that
    are then compared by their routing keys. exact: blocks a head that rows which ask then compare by their keys; 0: none. votes:
    the weight of a mass, in rows that ask, against those of the layers below; 0: they do not count."""

    router_queries: int = 8
    route_every: int = 32
    coarse: int = 0
    coarse_from: int = 16_384
    candidates: int = 128
    exact: int = 0
    votes: int = 0


class Blocks(CachePolicy):
    """Exact blocks of keys and values, chosen by attention mass."""

    name: ClassVar[str] = "blocks"
    Options = BlocksOptions
    keeps: ClassVar[bool] = False
    routed: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    @classmethod
    def check(cls, cfg: LayerConfig, options: BlocksOptions) -> None:
        """Requires window attention without linear biases, blocks of whole sub-blocks, and no compression."""
        whole("cache_options router_queries", options.router_queries, 1, cfg.segment)
        whole("cache_options route_every", options.route_every, 1)
        whole("cache_options coarse", options.coarse, 0)
        whole("cache_options coarse_from", options.coarse_from, 0)
        whole("cache_options candidates", options.candidates, cfg.top_k if options.coarse else 1)
        if options.coarse and (cfg.segment % options.coarse or options.coarse % cfg.subblock):
            raise ConfigError(
                f"cache_options coarse={options.coarse} must divide segment={cfg.segment} and be a multiple of {cfg.subblock}, "
                f"the tokens of a routing key; choose for example coarse={cfg.segment}, or 0 for none"
            )
        whole("cache_options exact", options.exact, 0)
        if 0 < options.exact < cfg.top_k:
            raise ConfigError(f"cache_options exact={options.exact} must be 0, or at least top_k={cfg.top_k}")
        whole("cache_options votes", options.votes, 0)
        for key in ("coarse", "exact", "votes"):
            if getattr(options, key) and cfg.bounded and cfg.evict == "use":
                raise ConfigError(
                    f"cache_options {key}={getattr(options, key)} leaves blocks uncompared, and evict='use' adds up what all of "
                    f"them get; set {key}=0, or evict='age'"
                )
        for key, held, wanted in (
            ("position", cfg.position != "alibi", "'rope' or 'none'"),
            ("window", cfg.window >= 1, "at least 1"),
            ("rate", cfg.every == 1, "1: blocks hold every token"),
            ("write_delay", cfg.write_delay == "window", "'window'"),
        ):
            if not held:
                raise ConfigError(f"cache='blocks' requires {key} to be {wanted}; {key}={getattr(cfg, key)!r} was given")

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """Not used: the layer attends to the blocks itself (`siltstone.layers.blocks`)."""
        return ReadWeights()
