"""A server of a model with blocks: the end of a prompt and the text behind it choose blocks before every token."""

from __future__ import annotations

from typing import Any

import openai
import pytest

import siltstone as st
from siltstone.serve import answer
from siltstone.serve.house import House
from tests.inference.conftest import small_model
from tests.inference.test_asking import KEYS

from .conftest import served

TEXT = "The gate is green. The wall is red. " * 5 + "Which gate is green?"
TOKENS = 9


def likely(house: House, parts: list[tuple[str, bool]]) -> list[float]:
    """The log-probabilities of the tokens that a session writes after it has read these parts, asking or not."""
    s, found = st.Session(house.model, house.tokenizer), []
    for text, asking in parts:
        s.asking = asking
        s.append(text)
    for _ in range(TOKENS):
        assert s.logits is not None
        scores = s.logits.log_softmax(-1)
        found.append(float(scores.max()))
        s.append([int(scores.argmax())])
    return found


@pytest.mark.parametrize("progress", [None, lambda share: None])
def test_sessions_ask_where_they_are_told_to(progress: Any) -> None:
    """As a session of this process: its logits, and what its question attends to."""
    house = House(small_model(depth=2, **KEYS), st.ByteTokenizer(), name="blocks")
    own, question = st.Session(house.model, house.tokenizer), "Which gate is green?"
    own.append(TEXT)
    plain = own.fork()
    own.asking = True
    fork = own.fork()
    fork.append(question)
    with served(house) as url:
        session = st.connect(url).session()
        session.append(TEXT, progress)
        found = [(x["first"], x["end"]) for x in session.attended(question)]
        assert found == [x[:2] for x in fork.attended()][: len(found)] and found
        session.append(question, progress, asking=True)
        got = session.score(" The gate")
        session.append(TEXT, asking=False)
        last = session.score("!")
    assert got == pytest.approx(fork.score(" The gate").tolist(), abs=1e-5)
    plain.append(question)
    assert got != pytest.approx(plain.score(" The gate").tolist(), abs=1e-5)
    fork.asking = False
    fork.append(TEXT)
    assert last == pytest.approx(fork.score("!").tolist(), abs=1e-5)


def test_answers_choose_before_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "ASKED", 40)
    model: Any = small_model(depth=2, **KEYS)
    house = House(model, st.ByteTokenizer(), name="blocks")
    body = f"User: {TEXT}\n"
    want = likely(house, [(body[:-40], False), (body[-40:] + "Assistant:", True)])
    assert max(abs(x - y) for x, y in zip(want, likely(house, [(body + "Assistant:", False)]), strict=True)) > 1e-4
    messages: list[Any] = [{"role": "user", "content": TEXT}]

    def asked() -> Any:
        return client.chat.completions.create(model="blocks", messages=messages, max_tokens=TOKENS, temperature=0, logprobs=True)

    with served(house) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        for _ in range(2):  # the second time the whole prompt was read before
            got = asked()
            assert [x.logprob for x in got.choices[0].logprobs.content] == pytest.approx(want, abs=1e-5)
        messages += [{"role": "assistant", "content": got.choices[0].message.content}, {"role": "user", "content": "Yes?"}]
        assert asked().usage.prompt_tokens_details.cached_tokens > len(body)
