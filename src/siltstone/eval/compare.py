"""Models beside each other on the same texts: bits per byte by position with paired intervals, and what each costs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError, InputError
from ..io import write_json
from ..io.atomic import make_folder
from ..io.parse import parse_object
from ..models.checkpoint import load
from ..models.fingerprint import fingerprint_of, weights_of, with_tokenizer
from ..text import Tokenizer, encode_sized
from .costs import costs, trained_tokens
from .intervals import bootstrap
from .position import by_position
from .routing_map import routing_map

SLACK = 16  # tokens by which a part is longer, as its first tokens may change when it is encoded alone


def parts_of(text: str, tokenizer: Tokenizer, length: int) -> list[str]:
    """The text in parts of at least `length` tokens each; what is left at the end is dropped."""
    _, sizes = np.array(encode_sized(tokenizer, text), np.int64).reshape(2, -1)
    data, ends = text.encode("utf-8"), np.concatenate([[0], sizes.cumsum()])
    out, step = [], length + SLACK
    for first in range(0, len(sizes) - step + 1, step):
        begin, end = (_whole(data, int(ends[i])) for i in (first, first + step))
        out.append(data[begin:end].decode("utf-8"))
    return out


def _whole(data: bytes, at: int) -> int:
    """The first byte of the character that has byte `at`."""
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def compare(
    entries: Mapping[str, Sequence[Path]],
    texts: Sequence[str],
    length: int = 4096,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] = lambda text: None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Reads the texts, in parts of `length` tokens, with every model.

    entries  name -> run folders that differ in their seed alone
    keep     a folder for what each model read; the same model does not read the same parts again

    Returns, ready for JSON: `{"length", "parts", "entries": [{"name", "runs", "bits_per_byte", "seeds": [bits per byte of each
    run], "buckets": [{"from", "to", "bits_per_byte", "difference", "low", "high"}], "costs", "tokens", "routes"}]}`.
    "tokens": training tokens of the first run, null if its folder has no receipt; "routes": the `routing_map` of the first run on
    the first part. Differences are to the first
    entry, of the same parts: their 95 % interval is a bootstrap over parts, after the mean over runs; null with one part. It
    covers the choice of text, not the seeds: these are listed. Raises InputError if there is no entry or tokenizers differ,
    DataError if no text is long enough.
    """
    if not entries or not all(entries.values()):
        raise InputError("nothing to compare: give at least one run folder")
    first: Tokenizer | None = None
    parts: list[str] = []
    found: list[dict[str, Any]] = []
    base: dict[tuple[int, int], np.ndarray] = {}
    for name, folders in entries.items():
        seen = []
        cost: dict[str, int] = {}
        routes = None
        for folder in folders:
            say(f"{name}: {folder}")
            model, tokenizer = load(folder, device)
            if first is None:
                first = tokenizer
                parts = [part for text in texts for part in parts_of(text, tokenizer, length)]
                if not parts:
                    raise DataError(f"no text has {length + SLACK:,} tokens; give longer texts, or a smaller --length")
            if tokenizer.fingerprint != first.fingerprint:
                raise InputError(f"{folder} has another tokenizer than the first model: positions would be those of other text")
            seen.append(_read(model, tokenizer, parts, length, keep))
            cost = cost or costs(model.cfg, length)
            if len(seen) == 1:
                ids = torch.tensor(tokenizer.encode(parts[0]), device=model.like.device)
                routes = routing_map(model, ids, text=tokenizer.decode)
        buckets = []
        for many in zip(*(one["buckets"] for one in seen), strict=True):
            each = np.mean([one["each"] for one in many], 0)
            at = (many[0]["from"], many[0]["to"])
            apart = each - base.setdefault(at, each)
            low, high = bootstrap(list(apart)) if len(apart) > 1 else (None, None)
            bits = float(np.mean([one["bits_per_byte"] for one in many]))
            facts = {"from": at[0], "to": at[1], "bits_per_byte": bits, "difference": float(apart.mean())}
            buckets.append(facts | {"low": low, "high": high})
        seeds = [one["bits_per_byte"] for one in seen]
        facts = {"name": name, "runs": [str(folder) for folder in folders], "bits_per_byte": float(np.mean(seeds))}
        facts |= {"tokens": trained_tokens(Path(folders[0])), "costs": cost}
        found.append(facts | {"seeds": seeds, "buckets": buckets, "routes": routes})
    return {"length": length, "parts": len(parts), "entries": found}


def _read(model: Any, tokenizer: Tokenizer, parts: list[str], length: int, keep: Path | None) -> dict[str, Any]:
    """`by_position`, or what it found before for this model and these parts; a damaged file is made again."""
    if keep is None:
        return by_position(model, tokenizer, parts, length)
    weights = with_tokenizer(fingerprint_of(model.cfg, weights_of(model)), tokenizer)
    name = hashlib.sha256("\0".join([weights, str(length), *parts]).encode("utf-8")).hexdigest()[:32]
    path = make_folder(keep) / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = parse_object(path.read_bytes())
        if all(len(bucket["each"]) == len(parts) for bucket in found["buckets"]) and found["bits_per_byte"] >= 0:
            return found
    found = by_position(model, tokenizer, parts, length)
    write_json(path, found)
    return found
