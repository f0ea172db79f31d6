"""The server's own schema has every route's body, and malformed requests made from it get errors, never a fault of the server."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpx2
import pytest

from siltstone.serve.fields import IGNORED, REFUSED, Chat
from siltstone.serve.schema import BODIES


def test_every_route_that_takes_a_body_says_so(raw: httpx2.Client) -> None:
    told = raw.get("/openapi.json").json()
    posts = {path for path, verbs in told["paths"].items() if "post" in verbs}
    assert posts == {*BODIES, "/sessions/upload"}
    assert all("requestBody" in told["paths"][path]["post"] for path in posts)
    parts = told["components"]["schemas"]
    chat = parts["Chat"]
    assert {*chat["properties"]} == {*Chat.model_fields} and chat["required"] == ["model", "messages"]
    assert not {*chat["properties"]} & (IGNORED[Chat] | {*REFUSED[Chat]})

    def refs(value: Any) -> set[str]:
        if isinstance(value, list):
            return {x for part in value for x in refs(part)}
        if not isinstance(value, dict):
            return set()
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own | {x for part in value.values() for x in refs(part)}

    assert {x.removeprefix("#/components/schemas/") for x in refs(told)} <= {*parts}
    assert raw.get("/openapi.json").json() == told


REQUIRED = """
    id object created_at completed_at status incomplete_details model previous_response_id instructions output error
    tools tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs
    temperature reasoning user usage max_output_tokens max_tool_calls store background service_tier metadata
    safety_identifier prompt_cache_key
""".split()


def test_a_response_has_all_that_open_responses_requires(raw: httpx2.Client) -> None:
    body = {"model": "demo", "input": [{"type": "message", "role": "user", "content": "Say hello."}], "max_output_tokens": 3}
    made = raw.post("/v1/responses", json=body).json()
    for told in (made, raw.get(f"/v1/responses/{made['id']}").json()):
        assert not {*REQUIRED} - {*told}
        assert told["service_tier"] == "default" and told["presence_penalty"] == told["frequency_penalty"] == 0


@pytest.mark.filterwarnings("default")  # its imports warn
def test_malformed_requests_are_no_faults(url: str, tool: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("schemathesis")
    found = tool("fuzz").fuzz(url, 120, 500)
    assert found.requests == 120 and not found.wrong
    assert found.statuses[400] > 30 and found.statuses[404] and not found.statuses[0]
