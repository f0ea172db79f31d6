"""One session, many questions: a text is read once, and each question goes to a fork of the session.

python examples/fork_for_questions.py                   # the model that ships: it imitates the style, not the meaning
python examples/fork_for_questions.py --run run --text long.txt "What was decided?" "Who was there?"
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import siltstone as st

REPORT = "The commission met in the spring and laid before the Congress its report on roads, harbours and the public debt. "
QUESTIONS = ["In regard to the roads,", "In regard to the harbours,", "In regard to the public debt,"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("questions", nargs="*", default=QUESTIONS)
parser.add_argument("--run", type=Path, default=st.demo_run(), help="folder of a trained model")
parser.add_argument("--text", type=Path)
parser.add_argument("--words", type=int, default=12, help="tokens of an answer")
args = parser.parse_args()

model, tok = st.load(args.run)
session = st.Session(model, tok)
began = time.perf_counter()
session.append(args.text.read_text("utf-8") if args.text else REPORT * 60)
print(f"{session.position:,} tokens read once, in {time.perf_counter() - began:.2f} s")

for question in args.questions:
    began = time.perf_counter()
    fork = session.fork()  # shares the sealed states; the session itself does not change
    fork.append(" " + question)
    answer = "".join(fork.generate(max_new_tokens=args.words, temperature=0.7, top_p=0.9, seed=0))
    print(f"{question} …{answer.rstrip()}   [{fork.position - session.position} tokens, {time.perf_counter() - began:.2f} s]")
print(f"the session is still at {session.position:,} tokens")
