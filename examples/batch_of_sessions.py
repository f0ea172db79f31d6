"""Many sessions, one model: texts of any length are read and continued together, one token of each in every step.

python examples/batch_of_sessions.py                   # the model that ships: it imitates the style, not the meaning
python examples/batch_of_sessions.py --run run "A first text" "Another one"
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import siltstone as st

TEXTS = [
    f"{subject} of the United States " * (1 + 9 * i) for i, subject in enumerate(["The Congress", "The public debt", "The roads"])
]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("texts", nargs="*", default=TEXTS)
parser.add_argument("--run", type=Path, default=st.demo_run(), help="folder of a trained model")
parser.add_argument("--words", type=int, default=12, help="tokens of each continuation")
args = parser.parse_args()

model, tok = st.load(args.run)
with st.Batch(st.freeze(model), tok) as batch:
    began = time.perf_counter()
    members = [batch.join() for _ in args.texts]
    for member, text in zip(members, args.texts, strict=True):
        member.feed(text)  # queued: the turns below read it in slices
    written = [member.generate(args.words, temperature=0.7, top_p=0.9, seed=i) for i, member in enumerate(members)]
    turns = 0
    while batch.turn():  # a server does this in one thread, with batch.run(stop), while others queue work
        turns += 1
    for member, writing in zip(members, written, strict=True):
        print(f"{member.position - len(writing.tokens):>5,} tokens read, then: …{writing.result().rstrip()}")
    print(f"{len(batch)} sessions, {turns} turns, {time.perf_counter() - began:.2f} s")
