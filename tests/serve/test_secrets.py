"""Many users with secrets talk at once, give up, retry and branch at random: no output has another's secret, and every greedy
transcript is that of the same script alone. SILTSTONE_USERS is their number."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from siltstone.serve.house import House, Limits

USERS = int(os.environ.get("SILTSTONE_USERS", "10"))
NEAR = 1e-3  # two tokens whose log-probabilities differ by less may change places in a batch
TURNS = 4


@dataclass
class Said:
    """An answer: its tokens, and by how much each was likelier than the next best."""

    text: str
    tokens: list[str]
    margins: list[float]


def secret(number: int) -> str:
    return f"q{number * 7919 % 1_000_003:07d}z"


def said(tokens: list[dict[str, Any]], text: str) -> Said:
    tops = [sorted((x["logprob"] for x in token["top_logprobs"]), reverse=True) for token in tokens]
    return Said(text, [token["token"] for token in tokens], [top[0] - top[1] for top in tops])


class User:
    """One script: what it does depends on its number alone; what is rough about it leaves no trace in what it is told."""

    def __init__(self, client: httpx2.Client, number: int, rough: bool) -> None:
        self.client, self.number, self.rough = client, number, rough
        self.chance, self.whims = random.Random(number), random.Random(-number)
        self.heard: list[Said] = []

    def run(self) -> list[Said]:
        [self.chats, self.responds, self.keeps][self.number % 3]()
        return self.heard

    def words(self, turn: int) -> str:
        return f"{self.chance.choice(['Say', 'Tell'])} {turn}: " + "it. " * self.chance.randint(1, 25)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """An answer, which is asked for twice, or given up first, if the user is rough."""
        headers = {"Idempotency-Key": f"{self.number}-{self.whims.random()}"}
        if self.rough and self.whims.random() < 0.5:
            longer = {key: 500 if key in ("max_tokens", "max_output_tokens") else value for key, value in body.items()}
            with self.client.stream("POST", path, json=longer | {"stream": True}) as stream:
                assert stream.status_code == 200
                next(stream.iter_raw())
        got = self.client.post(path, json=body, headers=headers)
        assert got.status_code == 200, got.text
        if self.rough and self.whims.random() < 0.5:
            again = self.client.post(path, json=body, headers=headers | {"x-stainless-retry-count": "1"})
            assert again.json() == got.json()
        return got.json()

    def chats(self) -> None:
        """Sends everything; at times goes back and says something else."""
        messages: list[Any] = [{"role": "system", "content": f"The word is {secret(self.number)}."}]
        for turn in range(TURNS):
            messages.append({"role": "user", "content": self.words(turn)})
            body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
            got = self.post("/v1/chat/completions", body)["choices"][0]
            self.heard.append(said(got["logprobs"]["content"], got["message"]["content"]))
            messages.append({"role": "assistant", "content": self.heard[-1].text})
            if self.chance.random() < 0.3:
                del messages[-2:]

    def responds(self) -> None:
        """Goes on from responses, at times from an earlier one."""
        ids: list[str | None] = [None]
        for turn in range(TURNS):
            before = self.chance.choice(ids[-2:]) if turn else None
            text = self.words(turn) if before else f"The word is {secret(self.number)}. {self.words(turn)}"
            body = {"model": "demo", "input": text, "previous_response_id": before, "temperature": 0, "max_output_tokens": 6}
            got = self.post("/v1/responses", body | {"include": ["message.output_text.logprobs"], "top_logprobs": 2})
            part = got["output"][0]["content"][0]
            self.heard.append(said(part["logprobs"], part["text"]))
            ids.append(got["id"])

    def keeps(self) -> None:
        """Has a session; forks it, and goes back to marks."""

        def call(path: str, body: dict[str, Any] | None = None) -> Any:
            got = self.client.post(path, json=body or {})
            assert got.status_code == 200, got.text
            return got.json()

        id = call("/sessions")["id"]
        call(f"/sessions/{id}/append", {"text": f"The word is {secret(self.number)}. "})
        for turn in range(TURNS):
            call(f"/sessions/{id}/append", {"text": self.words(turn)})
            mark = call(f"/sessions/{id}/mark")["id"]
            if self.rough and self.whims.random() < 0.5:
                call(f"/sessions/{call(f'/sessions/{id}/fork')['id']}/generate", {"max_tokens": 5})
            got = call(f"/sessions/{id}/generate", {"max_tokens": 6, "temperature": 0})
            self.heard.append(Said(got["text"], [], []))
            if self.chance.random() < 0.5:
                call(f"/sessions/{id}/rollback", {"mark": mark})


def same(one: list[Said], two: list[Said]) -> bool:
    """Whether two transcripts are equal up to the first near-tie, behind which the conversation is another one."""
    for a, b in zip(one, two, strict=True):
        for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)):
            if x != y:
                return min(a.margins[i], b.margins[i]) < NEAR
        if a.text != b.text:
            return False
    return True


def test_what_is_the_same() -> None:
    one = [Said("ab", ["a", "b"], [1.0, 0.5]), Said("c", ["c"], [2.0])]
    assert same(one, one) and not same(one, [one[0], Said("d", ["d"], [2.0])])
    assert same(one, [Said("ax", ["a", "x"], [1.0, NEAR / 2]), Said("d", ["d"], [2.0])])
    assert not same(one, [Said("ax", ["a", "x"], [NEAR / 2, 0.5]), one[1]])


def test_no_secret_is_told_to_another(pair: Any, serving: Callable, tmp_path: Path) -> None:
    def all_of(house: House, rough: bool, at_once: int) -> list[list[Said]]:
        with (
            serving(house) as url,
            httpx2.Client(base_url=url, timeout=300, limits=httpx2.Limits(max_connections=None)) as client,
        ):
            with ThreadPoolExecutor(at_once) as pool:
                return list(pool.map(lambda number: User(client, number, rough).run(), range(USERS)))

    few = Limits(slots=16, queue=1000, sessions=50)  # sessions that are not used leave the memory, and come back
    busy = all_of(House(*pair, name="demo", folder=tmp_path, limits=few), True, 24)
    alone = all_of(House(*pair, name="demo"), False, 1)
    secrets = [secret(number) for number in range(USERS)]
    assert len({*secrets}) == USERS
    for number, heard in enumerate(busy):
        text = "\n".join(x.text for x in heard)
        assert not [x for i, x in enumerate(secrets) if i != number and x in text], number
        assert len(heard) == TURNS
    apart = [number for number in range(USERS) if number % 3 != 2 and not same(busy[number], alone[number])]
    assert not apart, [(busy[number], alone[number]) for number in apart]
    other = [number for number in range(2, USERS, 3) if busy[number] != alone[number]]  # without margins
    assert len(other) <= USERS // 50, [(busy[number], alone[number]) for number in other]
