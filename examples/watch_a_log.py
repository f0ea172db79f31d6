"""Watch a log: learn from its first lines, then read on and alert on lines that surprise the model.

python examples/watch_a_log.py                          # a built-in log with two odd lines, a few seconds
python examples/watch_a_log.py app.log --learn 20000 --steps 500
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import torch
from torch.nn import functional as F

import siltstone as st


def built_in(count: int = 1200) -> list[str]:
    """Lines of a server log, two of them odd."""
    draw = random.Random(0)
    lines = [f"GET /item/{draw.randrange(90)} 200 {draw.randrange(10, 60)}ms\n" for _ in range(count)]
    lines[count - 200] = "kernel: out of memory, killed process 4127\n"
    lines[count - 60] = "GET /../../etc/passwd 403 1ms\n"
    return lines


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("log", type=Path, nargs="?")
parser.add_argument("--learn", type=int, default=900, help="lines to learn from")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--alert", type=float, default=8.0, help="standard deviations above the mean")
args = parser.parse_args()
lines = args.log.read_text("utf-8", "replace").splitlines(keepends=True) if args.log else built_in()

torch.manual_seed(0)
tok = st.ByteTokenizer()
model = st.LM(st.presets.nano(tok.vocab_size, d_model=48, depth=2, window=32, segment=32))
optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
known = torch.tensor(tok.encode("".join(lines[: args.learn])))
for _ in range(args.steps):
    starts = torch.randint(0, len(known) - 129, (8,))
    ids = torch.stack([known[start : start + 129] for start in starts.tolist()])
    loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

session, mean, square, alerts = st.Session(model.eval(), tok), 0.0, 0.0, 0
session.append("".join(lines[args.learn - 50 : args.learn]))
for number, line in enumerate(lines[args.learn :], 1):
    bits = float(-session.append_scored(line).sum()) / math.log(2) / len(line.encode())  # the line is now in the session
    spread = math.sqrt(max(0.0, square - mean * mean))
    if number > 20 and bits > mean + args.alert * spread:
        alerts += 1
        print(f"line {args.learn + number:,}: {bits:.2f} bits a byte (mean {mean:.2f}): {line.rstrip()}")
    else:  # running averages of the ordinary lines
        rate = max(0.02, 1 / number)
        mean, square = mean + rate * (bits - mean), square + rate * (bits * bits - square)
print(f"{number:,} lines watched, {alerts} alerts; the session is {session.nbytes:,} bytes")
