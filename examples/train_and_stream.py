"""Train a small model on a text, then read a longer text with it in bounded memory, and resume from the session file.

python examples/train_and_stream.py              # a built-in text, a few seconds
python examples/train_and_stream.py book.txt --steps 500
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import siltstone as st

BUILT_IN = "".join(f"On day {n} the ferry left at {6 + n % 5}:15 and carried {3 * n % 40} passengers.\n" for n in range(600))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", type=Path, nargs="?")
parser.add_argument("--steps", type=int, default=30)
args = parser.parse_args()
text = args.text.read_text("utf-8") if args.text else BUILT_IN

torch.manual_seed(0)
tok = st.ByteTokenizer()
model = st.LM(st.presets.nano(tok.vocab_size, d_model=48, depth=2, segment=32, window=32))
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
ids = torch.tensor(tok.encode(text))
rows, length = 8, 128
rows_BT = ids[: len(ids) // rows * rows].view(rows, -1)  # 8 parts of the text in parallel
state = None
for step in range(args.steps):
    start = step * length % max(1, rows_BT.shape[1] - length - 1)
    if start < length:
        state = None  # the rows begin again
    piece = rows_BT[:, start : start + length + 1]
    logits, state = model(piece[:, :-1], state)
    loss = F.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    state = state.detach()
    if step % 10 == 9:
        print(f"step {step + 1}: {loss.item() / 0.6931:.2f} bits a byte")

session = st.Session(model.eval(), tok)
half = len(text) // 2
session.append(text[:half])
with tempfile.TemporaryDirectory() as folder:
    session.save(Path(folder) / "read.silt")
    size = (Path(folder) / "read.silt").stat().st_size
    resumed = st.Session.load(Path(folder) / "read.silt", model, tok)
    resumed.append(text[half:])
print(f"{resumed.position:,} tokens read; the file after half of them had {size:,} bytes")
