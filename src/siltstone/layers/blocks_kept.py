"""cache="blocks": what is kept of sealed blocks, rounded once when they are sealed (`checkpoint_dtype`).

    kept     keys [B, N, J, block, K] (not rotated) and values [B, N, J, block, V]
    means    routing keys [B, J, N, parts, K], means of the exact keys; int8 if keys and values are rounded; then coarse ones
    tally    with a budget and evict="use": number of each block, its mass in steps, and the queries that gave it, int64 [B, N]

N places, in order of time. Gradients reach rounded blocks in the call that seals them, and not later. Rounded leaves are those of
`siltstone.bank.codec`: int8 codes are followed by a scale a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bank import codec
from ..config.layer import LayerConfig
from ..ops.upcast import upcast
from ..state.entries import Entries
from ..state.tree import Store

Leaves = tuple[Tensor, ...]
PLACES = 2  # the axis of means along which they grow


def stored(cfg: LayerConfig, keys: Tensor, values: Tensor) -> tuple[Leaves, Leaves]:
    """What is kept of blocks, keys [B, n, block, J, K] and values [B, n, block, J, V] -> leaves of `kept` and of `means`."""
    kind = cfg.checkpoint_dtype
    keys, values = keys.transpose(2, 3), values.transpose(2, 3)
    keys, values = (keys, values) if kind == "float32" else (keys.detach(), values.detach())
    coarse = cfg.members.cache.options.coarse
    sizes = (cfg.subblock, coarse) if coarse else (cfg.subblock,)
    means = tuple(keys.detach().unflatten(3, (-1, size)).mean(4).transpose(1, 2) for size in sizes)
    if kind == "float32":
        return (keys, values), means
    return codec.pack(kind, (upcast(keys), upcast(values))), codec.pack("int8", tuple(upcast(x) for x in means))


def routing(means: Leaves, coarse: bool) -> Leaves:
    """The routing keys, or the coarse ones, of all that is kept for choosing."""
    each = 2 if means[0].dtype == torch.int8 else 1
    return means[each : 2 * each] if coarse else means[:each]


def rounded(cfg: LayerConfig, keys: Tensor, values: Tensor) -> Leaves:
    """`stored` for a call with gradients: keys and values as they are read, with gradients as if nothing were rounded."""
    found = codec.rounded(cfg.checkpoint_dtype, tuple(upcast(x.transpose(2, 3)) for x in (keys, values)))
    return tuple(x.to(keys.dtype) for x in found)


def empty(cfg: LayerConfig, batch: int, like: Tensor) -> tuple[Store, Store, Store | None]:
    """kept, means and tally of rows that have read nothing."""
    key, value = (like.new_zeros(batch, 0, cfg.segment, cfg.key_heads, width) for width in (cfg.key_dim, cfg.val_dim))
    kept, means = stored(cfg, key, value)
    tally = None
    if cfg.bounded and cfg.evict == "use":
        none = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        tally = Store.empty((none, none, none), (1, 1, 1))
    return Store.empty(kept, (1,) * len(kept)), Store.empty(means, (PLACES,) * len(means)), tally


def bytes_of_block(cfg: LayerConfig) -> tuple[int, int]:
    """Bytes of a block's keys and values, and of everything that is kept for choosing it, for a model in float32."""
    like = torch.zeros((), dtype=torch.float32, device="cpu")
    block = (like.new_zeros(1, 1, cfg.segment, cfg.key_heads, width) for width in (cfg.key_dim, cfg.val_dim))
    kept, means = stored(cfg, *block)
    return sum(x.nbytes for x in kept), sum(x.nbytes for x in means) + (24 if cfg.bounded and cfg.evict == "use" else 0)


def taken(kept: Entries, places: Tensor, dtype: torch.dtype, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Keys and values of blocks: places [R, n, J, k] of the rows int64 [R] (None: all) -> [R, n, J, k * block, ...].

    Raises SpillFailed.
    """
    row = torch.arange(kept.rows, device=places.device) if rows is None else rows
    keys, values = read(kept.taken(places, row), dtype)
    return keys.unflatten(0, places.shape).flatten(3, 4), values.unflatten(0, places.shape).flatten(3, 4)


def read(leaves: Leaves, dtype: torch.dtype) -> Leaves:
    """Keys and values [B, N, J, block, ...] of all places."""
    return tuple(x.to(dtype) for x in codec.unpack(leaves, dtype))


def scores(query: Tensor, means: Leaves) -> Tensor:
    """query [..., Q, K], means [..., M, K] -> products [..., Q, M]."""
    found = query @ means[0].to(query.dtype).transpose(-1, -2)
    return found if len(means) == 1 else found * means[1].transpose(-1, -2).to(found.dtype)


def some(leaves: Leaves, places: Tensor, axis: int) -> Leaves:
    """The given places int64 [R, n] of each row."""

    def one(x: Tensor) -> Tensor:
        index = places.view(len(places), *(places.shape[1] if i == axis else 1 for i in range(1, x.dim())))
        return x.gather(axis, index.expand(*(places.shape[1] if i == axis else n for i, n in enumerate(x.shape))))

    return tuple(one(x) for x in leaves)


def joined(store: Entries, new: Leaves) -> Leaves:
    """All entries of a store, then new ones."""
    old = store.views()
    return tuple(torch.cat([x, y.to(x.dtype)], a) for x, y, a in zip(old, new, store.axes, strict=True))
