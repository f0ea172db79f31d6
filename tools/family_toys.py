"""Trains every member on a toy stream for a few hundred steps: figures for docs/family.md.

    python tools/family_toys.py [--again]      (`make docs` runs it)

Writes docs/family/toys.json: the settings that it lacks, or all of them with --again (some minutes on one core).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import siltstone as st
from siltstone.config import registry
from siltstone.errors import ConfigError
from siltstone.io.atomic import write_text

PATH = Path(__file__).resolve().parent.parent / "docs" / "family" / "toys.json"
STEPS = 400
KEYS, VALUE, WIDTH, HEAD = 12, 4, 32, 8  # number of keys, width of a value, width of a token, K and V
STREAM = "ABCDEFGHIAJKLEFGHIJKLEFGHIJKLEFG"  # the key of each write of the shown stream; A comes twice
BLOCK = 4  # tokens of a compressor's block
TOPICS, FACTS = 6, 4  # number of topics, facts and questions of a segment
ORDER = (0, 1, 2, 0, 2, 1)  # topics of the shown segments
BITS = 31  # bits of a parity stream in training; a start token precedes them
MORE = {"memory": [("deep", {"inner_batch": 1}), ("titans", {"inner_batch": 1})]}  # shown besides a member's own settings


def train(model: nn.Module, loss: Callable[[torch.Generator], Tensor], steps: int) -> None:
    """Trains with Adam and a cosine learning rate."""
    draw, best = torch.Generator().manual_seed(1), torch.optim.Adam(model.parameters(), 1e-2)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(best, steps)
    for _ in range(steps):
        best.zero_grad()
        loss(draw).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        best.step()
        fall.step()


def vectors(*shape: int, draw: torch.Generator) -> Tensor:
    """Random unit vectors."""
    return F.normalize(torch.randn(*shape, VALUE, generator=draw), dim=-1)


class Alone(nn.Module):
    """A rule with one head, without a layer around it."""

    def __init__(self, name: str, options: dict[str, Any]):
        super().__init__()
        keys: dict[str, Any] = {"window": 0, "write_delay": 0, "cache": "none", "memory": name, "memory_options": options}
        self.rule = st.MemoryCaching(WIDTH, heads=1, head_dim=HEAD, **keys).mix.memory

    def found(self, tokens: Tensor, z: Tensor) -> Tensor:
        """Write tokens [B, T, D] from the beginning, read with queries z [B, 1, 1, n T, in], n after each write: [.., V]."""
        inputs = {name: x.unsqueeze(1) for name, x in self.rule.inputs(tokens).items()}
        written = self.rule.scan(inputs, None, torch.zeros(len(tokens), 1, dtype=torch.long), self.rule.init(len(tokens)))
        out = z
        for factor in range(self.rule.factors_count):
            out = self.rule.activation(factor, written.read(factor, out), z)
        return out


class Recall(Alone):
    """A rule that is read with every key after every write: keys [B, T], values [B, T, 4] -> [B, T, 12, 4]."""

    def __init__(self, name: str, options: dict[str, Any]):
        super().__init__(name, options)
        self.key, self.value, self.out = nn.Embedding(KEYS, WIDTH), nn.Linear(VALUE, WIDTH, False), nn.Linear(HEAD, VALUE, False)

    def forward(self, keys: Tensor, values: Tensor) -> Tensor:
        rows, length = keys.shape
        asked = self.rule.queries(self.key.weight[None]).transpose(1, 2)  # [1, 1, 12, in]
        out = self.found(self.key(keys) + self.value(values), asked.unsqueeze(1).repeat(rows, 1, 1, length, 1))
        return self.out(out.flatten(0, 2).unflatten(1, (length, KEYS)))


class Parity(Alone):
    """A rule that is read by every token after its own write: ids [B, T] of 0, 1 and 2, a start -> logits [B, T, 2]."""

    def __init__(self, name: str, options: dict[str, Any]):
        super().__init__(name, options)
        self.token, self.out = nn.Embedding(3, WIDTH), nn.Linear(HEAD, 2)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.token(ids)
        return self.out(self.found(tokens, self.rule.queries(tokens).transpose(1, 2).unsqueeze(1))[:, 0, 0])


def parity(name: str, options: dict[str, Any], steps: int = STEPS) -> list[float | None]:
    """Share of right answers to "is the number of ones so far odd?": in the second half of streams of the training length,
    and in the last quarter of streams twice as long; a mean of 512 streams and three seeds."""

    def right(seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = Parity(name, options)

        def streams(rows: int, length: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            bits = torch.randint(2, (rows, length), generator=draw)
            return torch.cat([torch.full((rows, 1), 2), bits], 1), bits.cumsum(1) % 2

        def loss(draw: torch.Generator) -> Tensor:
            ids, odd = streams(32, BITS, draw)
            return F.cross_entropy(model(ids)[:, 1:].flatten(0, 1), odd.flatten())

        train(model, loss, steps)
        with torch.no_grad():
            ids, odd = streams(512, 2 * BITS + 1, torch.Generator().manual_seed(4))
            return (model(ids)[:, 1:].argmax(-1) == odd).float().mean(0)

    found = torch.stack([right(seed) for seed in range(3)]).mean(0)
    return rounded(torch.stack([found[BITS // 2 : BITS].mean(), found[-(BITS // 2) :].mean()]))


def streams(rows: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random keys [B, T] and values [B, T, 4]; after each write the last value of each key [B, T, 12, 4], and which have one."""
    keys, values = torch.randint(KEYS, (rows, len(STREAM)), generator=draw), vectors(rows, len(STREAM), draw=draw)
    last, seen, wanted, known = torch.zeros(rows, KEYS, VALUE), torch.zeros(rows, KEYS), [], []
    for t in range(len(STREAM)):
        last[torch.arange(rows), keys[:, t]], seen[torch.arange(rows), keys[:, t]] = values[:, t], 1.0
        wanted.append(last.clone())
        known.append(seen.clone())
    return keys, values, torch.stack(wanted, 1), torch.stack(known, 1)


def memory(name: str, options: dict[str, Any], steps: int = STEPS) -> dict[str, list[float | None]]:
    """Cosine of output and value after each write.

    first, second, others: A's first value, its second, and those of B, C and D, averaged over 256 copies of the shown stream.
    all: the last values of all keys written so far, averaged over 512 fresh streams like those of training.
    parity: see `parity`.
    """
    torch.manual_seed(0)
    model = Recall(name, options)

    def loss(draw: torch.Generator) -> Tensor:
        keys, values, wanted, known = streams(32, draw)
        miss = (model(keys, values) - wanted).square().sum(-1) * known
        return miss.sum() / known.sum()

    train(model, loss, steps)
    values = vectors(256, len(STREAM), draw=torch.Generator().manual_seed(2))
    with torch.no_grad():
        answers = model(torch.tensor([[ord(c) - 65 for c in STREAM]]).expand(256, -1), values)

    def like(key: int, write: int) -> Tensor:
        return F.cosine_similarity(answers[:, :, key], values[:, write : write + 1], dim=-1).mean(0)

    once = torch.stack([like(key, key) for key in (1, 2, 3)])
    once[torch.arange(len(STREAM)) < torch.tensor([[1], [2], [3]])] = torch.nan  # not written yet
    curves = {"first": like(0, 0), "second": like(0, STREAM.rindex("A")), "others": once.nanmean(0)}
    keys, values, wanted, known = streams(512, torch.Generator().manual_seed(4))
    with torch.no_grad():
        right = F.cosine_similarity(model(keys, values), wanted, dim=-1) * known
    curves["all"] = right.sum((0, 2)) / known.sum((0, 2))
    return {name: rounded(curve) for name, curve in curves.items()} | {"parity": parity(name, options, steps)}


def compress(name: str, options: dict[str, Any], steps: int = STEPS) -> dict[str, list[float | None]]:
    """Share of each token of a block in the write, by the size of its gradient; one token matters, and a mark identifies it.

    anywhere: the marked token is at any place (shown: the second); last: always at the last.
    """
    return {"anywhere": _shares(name, options, steps, None, 1), "last": _shares(name, options, steps, BLOCK - 1, BLOCK - 1)}


def _shares(name: str, options: dict[str, Any], steps: int, always: int | None, shown: int) -> list[float | None]:
    torch.manual_seed(0)
    keys: dict[str, Any] = {"heads": 4, "window": BLOCK, "segment": 4 * BLOCK, "compress": name, "compress_options": options}
    try:
        pool = st.MemoryCaching(WIDTH, rate=BLOCK, **keys).mix.compress
    except ConfigError:  # the compressor allows only rate 1
        pool = st.MemoryCaching(WIDTH, **keys).mix.compress
    model = nn.Sequential(pool, nn.Linear(WIDTH, VALUE, bias=False))
    mark, spread = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)), torch.eye(VALUE, WIDTH)

    def blocks(places: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        values = vectors(len(places), 1, pool.rate, draw=draw)
        matters = F.one_hot(places.clamp(max=pool.rate - 1), pool.rate)[:, None, :, None].to(values.dtype)
        return values @ (2 * spread) + matters * mark, (values * matters).sum(2)

    def loss(draw: torch.Generator) -> Tensor:
        places = torch.randint(BLOCK, (64,), generator=draw) if always is None else torch.full((64,), always)
        x, wanted = blocks(places, draw)
        return (model(x) - wanted).square().mean()

    train(model, loss, steps)
    x, _ = blocks(torch.full((64,), shown), torch.Generator().manual_seed(2))
    x.requires_grad_()
    write = model(x)
    grads = [torch.autograd.grad(write[..., i].sum(), x, retain_graph=True)[0] @ spread.T for i in range(VALUE)]
    size = torch.stack(grads).square().sum((0, -1)).sqrt().mean((0, 1))
    return rounded(size / size.sum())


class LookBack(nn.Module):
    """A layer with a cache that reads facts and questions: topics, keys, asks [B, T], values [B, T, 4] -> [B, T, 4]."""

    def __init__(self, name: str, options: dict[str, Any]):
        super().__init__()
        keys: dict[str, Any] = {"window": 0, "write_delay": 0, "cache": name, "segment": 2 * FACTS} | options
        keys |= {"top_k": 2} if name in ("sparse", "blocks") else {}
        if name == "blocks":  # a token attends to its own block and to those that the four tokens before it choose
            more = {"router_queries": 4, "route_every": 1}
            keys |= {"window": 1, "write_delay": "window", "position": "none", "cache_options": more}
        if name == "exact":  # it is read through the window
            keys |= {"window": 1, "position": "none", "cache_options": {"writes": 2 * FACTS}}
        self.layer = st.MemoryCaching(WIDTH, heads=1, head_dim=HEAD, **keys)
        self.topic, self.key, self.ask = nn.Embedding(TOPICS, WIDTH), nn.Embedding(2 * FACTS, WIDTH), nn.Embedding(2, WIDTH)
        self.value, self.out = nn.Linear(VALUE, WIDTH, bias=False), nn.Linear(WIDTH, VALUE, bias=False)

    def forward(self, topics: Tensor, keys: Tensor, asks: Tensor, values: Tensor) -> Tensor:
        told = self.value(values) * (1 - asks).unsqueeze(-1)
        return self.out(self.layer(self.topic(topics) + self.key(keys) + self.ask(asks) + told)[0])


def segments(topics: Tensor, draw: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
    """topics [B, 6], each of three twice -> (topics, keys, asks, values) [B, 48] and where the answer to each token was stated.

    A segment states four facts and asks four questions: about its own, or, if its topic has occurred before, about that one's.
    """
    rows, number = topics.shape
    again = (topics.unsqueeze(1) == topics.unsqueeze(2)).tril(-1)  # [B, 6, 6]
    source = torch.where(again.any(-1), again.long().argmax(-1), torch.arange(number))
    order = torch.rand(rows, number, FACTS, generator=draw).argsort(-1)
    told = torch.arange(FACTS).expand_as(order) + FACTS * again.any(-1, keepdim=True)
    keys = torch.cat([told, order], -1)  # a topic's first facts have keys 0 to 3, its later ones 4 to 7
    asks = torch.cat([torch.zeros_like(order), torch.ones_like(order)], -1)
    answers = torch.cat([torch.zeros_like(order), source.unsqueeze(-1) * 2 * FACTS + order], -1)
    values = vectors(rows, 2 * FACTS * number, draw=draw)
    return (topics.repeat_interleave(2 * FACTS, 1), keys.flatten(1), asks.flatten(1), values), answers.flatten(1)


def cache(name: str, options: dict[str, Any], steps: int = STEPS) -> list[list[float | None]]:
    """[6][48]: how much the facts of each segment influence the answer to each token, by the size of its gradient; shares.

    A policy's variants are keys of the layer.
    """
    torch.manual_seed(0)
    model = LookBack(name, options)

    def loss(draw: torch.Generator) -> Tensor:
        three = torch.rand(16, TOPICS, generator=draw).argsort(-1)[:, :3]
        back = torch.rand(16, 3, generator=draw).argsort(-1)
        given, answers = segments(torch.cat([three, three.gather(1, back)], 1), draw)
        wanted = given[3].gather(1, answers.unsqueeze(-1).expand_as(given[3]))
        return ((model(*given) - wanted).square().sum(-1) * given[2]).sum() / given[2].sum()

    train(model, loss, steps)
    (topics, keys, asks, values), _ = segments(torch.tensor([ORDER]).expand(32, -1), torch.Generator().manual_seed(2))
    values = values.clone().requires_grad_()
    answers, shares = model(topics, keys, asks, values), []
    for t in range(answers.shape[1]):
        grads = [torch.autograd.grad(answers[:, t, i].sum(), values, retain_graph=True)[0] for i in range(VALUE)]
        size = torch.stack(grads).square().sum((0, -1)).unflatten(-1, (len(ORDER), -1)).sum(-1).sqrt().mean(0)
        shares.append(size / size.sum())
    return [rounded(row) for row in torch.stack(shares, 1)]


def rounded(x: Tensor) -> list[float | None]:
    """Two decimals, without negative zero; None for values that are not finite."""
    return [None if v != v else round(v, 2) + 0.0 for v in x.tolist()]


def lines(found: dict[str, dict[str, Any]]) -> str:
    """JSON with one line per setting."""
    families = []
    for family, figures in found.items():
        inside = ",\n".join(f"  {json.dumps(label)}: {json.dumps(x, allow_nan=False)}" for label, x in figures.items())
        families.append(f" {json.dumps(family)}: {{\n{inside}\n }}")
    return "{\n" + ",\n".join(families) + "\n}\n"


def shown(family: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, options) of every setting that a family shows."""
    return [*registry.settings(family), *MORE.get(family, [])]


def settings() -> list[tuple[str, str, dict[str, Any]]]:
    """(family, name, options) of every setting that is shown."""
    return [(family, *setting) for family in registry.FAMILIES for setting in shown(family)]


def main(words: list[str] | None = None) -> None:
    """Adds the missing settings to the file."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--again", action="store_true", help="compute all of them again")
    again = parse.parse_args(words).again
    torch.set_num_threads(1)
    old = json.loads(PATH.read_text("utf-8")) if PATH.is_file() and not again else {}
    found: dict[str, dict[str, Any]] = {family: {} for family in registry.FAMILIES}
    for family, name, options in settings():
        label = registry.label(name, options)
        if label in old.get(family, {}):
            found[family][label] = old[family][label]
            continue
        print(f"{family} {label}", flush=True)
        found[family][label] = {"compress": compress, "memory": memory, "cache": cache}[family](name, options)
    PATH.parent.mkdir(exist_ok=True)
    if found != old:
        write_text(PATH, lines(found))


if __name__ == "__main__":
    main()
