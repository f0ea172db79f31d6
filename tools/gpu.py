"""What a machine with a GPU runs: equality of calls and steps, prefill, and decoding of 32 rows, beside a transformer.

    python tools/gpu.py [--quick] [--out FILE]

Prints one JSON object. Steps run under `torch.cuda.set_sync_debug_mode("error")`: a number read back from the device is an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.bench.models import VOCAB, at_position, pair
from siltstone.models.stream_state import LMState

RULES = ("linear", "gated", "delta", "gated_delta", "mlstm", "titans")
CACHES = ("residual", "gated", "sparse")


def smoke(device: str) -> dict[str, float]:
    """The largest difference between one call and single steps, for rules and caches, in float32."""
    found = {}
    for rule in RULES:
        for cache in CACHES:
            torch.manual_seed(0)
            keys: dict[str, Any] = dict(
                memory=rule, cache=cache, segments="constant", depth=2, d_model=64, heads=2, window=8, segment=16
            )
            model = st.LM(st.presets.nano(VOCAB, **keys)).to(device).eval()
            ids = torch.randint(VOCAB, (3, 60), device=device)
            with torch.no_grad():
                want, state = model(ids)[0], model.init_state(3)
                outs = []
                for each in ids.unbind(1):
                    out, state = model.step(each, state)
                    outs.append(out)
            found[f"{rule}, {cache}"] = float((torch.stack(outs, 1) - want).abs().max() / want.abs().max())
    return found


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """The median of some calls, waited for."""
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[2:])


@torch.no_grad()
def prefill(device: str, tokens: int, rounds: int) -> dict[str, float]:
    """Milliseconds, and gigabytes at the peak, of one text in bfloat16."""
    out = {}
    for name, model in zip(("ours", "transformer"), pair(torch.bfloat16, cache="sparse", gate="softmax"), strict=True):
        model, ids = model.to(device), torch.randint(VOCAB, (1, tokens), device=device)
        torch.cuda.reset_peak_memory_stats()
        out[f"{name} ms"] = milliseconds(lambda m=model, x=ids: m.features(x)[0][:, -1:].float().sum(), rounds)
        out[f"{name} GB"] = torch.cuda.max_memory_allocated() / 1e9
    return out


@torch.no_grad()
def decoding(device: str, position: int, rows: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a step of some rows; ours without a synchronisation inside."""
    ours, peer = pair(torch.bfloat16, cache="sparse", gate="softmax")
    out = {}
    for name, model in (("ours", ours.to(device)), ("transformer", peer.to(device))):
        states = [LMState.cat([at_position(model, position)] * rows)]
        ids = torch.randint(VOCAB, (rows,), device=device)

        def step(model: Any = model, states: list[LMState] = states, ids: torch.Tensor = ids) -> None:
            states[0] = model.step(ids, states[0], inplace=True)[1]

        step()
        if name == "ours":
            torch.cuda.set_sync_debug_mode("error")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        out[f"{name} ms"] = milliseconds(step, rounds)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter texts and fewer rounds")
    parser.add_argument("--out", type=Path, help="also write the JSON object to this file")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU was found")
    lengths, rounds = ((8192,), 3) if given.quick else ((32768, 131072), 7)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "smoke": smoke("cuda")}
    for tokens in lengths:
        found[f"prefill {tokens}"] = prefill("cuda", tokens, rounds)
    found[f"decoding {lengths[-1]}, 32 rows"] = decoding("cuda", lengths[-1], 32, rounds)
    text = json.dumps(found, indent=1)
    if given.out is not None:
        given.out.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
