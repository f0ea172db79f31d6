"""What a token costs: parameters, bytes of the state, bytes that are read, and FLOPs."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config.model import LMConfig
from ..io.parse import is_count, parse_object
from ..models.lm import LM
from ..models.stream_state import LMState


def parameters(cfg: LMConfig) -> int:
    """Number of parameters of a model, which is not allocated."""
    with torch.device("meta"):
        return LM(cfg).parameters_count


def _read(cfg: LMConfig, length: int) -> tuple[LM, LMState | None]:
    """A model, and its state after a text of `length` tokens. Numbers of bytes do not depend on the weights."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, state = LM(cfg), None
        for part in torch.zeros(1, length, dtype=torch.long, device=model.like.device).split(512, 1):
            _, state = model.features(part, state)
    return model, state


def state_bytes(cfg: LMConfig, length: int) -> int:
    """Bytes of the state after a text of `length` tokens, measured, in float32."""
    _, state = _read(cfg, length)
    return 0 if state is None else sum(state.parts().values())


def trained_tokens(folder: Path) -> int | None:
    """Tokens that the model of a run folder was trained on, by its receipt; None: it has none."""
    try:
        count = parse_object((folder / "receipt.json").read_bytes())["tokens"]
    except (OSError, ValueError, KeyError):
        return None
    return count if is_count(count) else None


def costs(cfg: LMConfig, length: int) -> dict[str, int]:
    """Parameters, bytes of the state after `length` tokens, and the bytes read and FLOPs of the token after them.

    bytes_read  weights that a token uses (not the whole embedding), and the state. With "sparse", of the checkpoints only the
                `top_k` that are chosen, and all routing keys. With "blocks", of the tokens only sinks, chosen blocks and near
                tokens; a choice reads the routing keys once in `route_every` tokens, and each token has its share of that
    flops       two for each element that is read and each query that reads it: keys and values of window and blocks are read by
                heads / kv_heads queries, routing keys of blocks by `router_queries`. An estimate: norms, softmaxes and gates are
                left out
    """
    model, state = _read(cfg, length)
    count = model.parameters_count
    used = count if cfg.tie else count - cfg.vocab_size * cfg.layer.d_model
    read = reads = 4.0 * used
    for layer, block, kept in zip(cfg.layer_configs, model.blocks, () if state is None else state.layers, strict=False):
        more = kept.read(block.mix, layer, length)
        read, reads = read + more[0], reads + more[1]
    size = 0 if state is None else sum(state.parts().values())
    return {"parameters": count, "state_bytes": size, "bytes_read": round(read), "flops": 2 * (round(reads) // 4)}
