"""Clients of other people, unmodified, against a server. `make clients` installs them; without one, its test is skipped."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.serve.house import House
from siltstone.text import BPETokenizer

# Their own imports warn of their own dependencies.
pytestmark = pytest.mark.filterwarnings("default")


def client_of(name: str) -> Any:
    """The package. It must be there if SILTSTONE_CLIENTS is set; otherwise its test is skipped without it."""
    return importlib.import_module(name) if os.environ.get("SILTSTONE_CLIENTS") else pytest.importorskip(name)


def test_langchain_goes_on_from_the_previous_response(url: str) -> None:
    made = client_of("langchain_openai").ChatOpenAI
    messages = importlib.import_module("langchain_core.messages")
    chat = made(
        model="demo",
        base_url=f"{url}/v1",
        api_key="none",
        use_previous_response_id=True,
        max_tokens=8,
        temperature=0,
        max_retries=0,
    )
    said: list[Any] = [messages.SystemMessage("Be brief."), messages.HumanMessage("Who sailed to the island?")]
    before = 0
    for turn in range(4):
        got = chat.invoke(said)
        assert got.text and got.response_metadata["id"].startswith("resp_")
        assert got.usage_metadata["input_token_details"]["cache_read"] == before
        before = got.usage_metadata["total_tokens"]
        said += [got, messages.HumanMessage(f"And then, {turn}?")]
    pieces = list(chat.stream(said))
    assert "".join(piece.text for piece in pieces) and len(pieces) > 3
    plain = made(model="demo", base_url=f"{url}/v1", api_key="none", use_responses_api=False, max_tokens=8, max_retries=0)
    first = plain.invoke("Of plain chats.")
    more = plain.invoke([("user", "Of plain chats."), ("assistant", first.content), ("user", "Go on.")])
    assert more.usage_metadata["input_token_details"]["cache_read"] == first.usage_metadata["total_tokens"]


def ending_at(tok: Any, word: str) -> BPETokenizer:
    """The tokenizer, with the id of a word as the end of a text."""
    told = json.loads(tok.to_json())
    [id], spelt = tok.encode(word), word.replace(" ", "\u0120")
    told["model"]["merges"] = [x for x in told["model"]["merges"] if spelt not in (*x, "".join(x))]
    told["model"]["vocab"] = {("<end>" if x == spelt else x): i for x, i in told["model"]["vocab"].items()}
    told["added_tokens"].append(told["added_tokens"][1] | {"id": id, "content": "<end>"})
    return BPETokenizer(json.dumps(told), json.dumps({"eos_token": "<end>"}))


def test_agents_keep_a_conversation_on_the_server(pair: tuple[Any, Any], serving: Callable) -> None:
    """The model ends its texts where it would write " of": this client takes a text of the greatest length for an error."""
    agents = client_of("agents")
    with serving(House(pair[0], ending_at(pair[1], " of"), name="demo")) as url:
        _with_agents(agents, url)


def _with_agents(agents: Any, url: str) -> None:
    agents.set_tracing_disabled(True)
    client = importlib.import_module("openai").AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def talk() -> None:
        model = agents.OpenAIResponsesModel(model="demo", openai_client=client)
        agent = agents.Agent(name="a", instructions="Be brief.", model=model, model_settings=agents.ModelSettings(temperature=0))
        session = agents.OpenAIConversationsSession(openai_client=client)
        one = await agents.Runner.run(agent, "Of agents.", session=session)
        two = await agents.Runner.run(agent, "And then?", session=session)
        assert one.final_output and two.final_output and len(await session.get_items()) == 4
        usage = [x.context_wrapper.usage for x in (one, two)]
        assert usage[1].input_tokens_details.cached_tokens == usage[0].total_tokens
        three = await agents.Runner.run(agent, "More.", previous_response_id=two.last_response_id)
        streamed = agents.Runner.run_streamed(agent, "Stream.", session=session)
        kinds = [event.data.type async for event in streamed.stream_events() if event.type == "raw_response_event"]
        assert "response.output_text.delta" in kinds and streamed.final_output
        cached = three.context_wrapper.usage.input_tokens_details.cached_tokens
        assert cached == usage[1].total_tokens
        chats = agents.OpenAIChatCompletionsModel(model="demo", openai_client=client)
        other = agents.Agent(name="b", model=chats, model_settings=agents.ModelSettings(max_tokens=8))
        assert (await agents.Runner.run(other, "Of chats.")).final_output
        await client.close()

    asyncio.run(talk())


def test_llm_talks_on_its_command_line(url: str, tmp_path: Path) -> None:
    client_of("llm")
    known = [{"model_id": "siltstone", "model_name": "demo", "api_base": f"{url}/v1", "api_key_name": "none"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known), "utf-8")  # JSON is YAML
    env = os.environ | {"LLM_USER_PATH": str(tmp_path)}

    def llm(*words: str) -> str:
        asked = [sys.executable, "-m", "llm", *words]
        got = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert got.returncode == 0, got.stderr
        return got.stdout

    llm("keys", "set", "none", "--value", "none")
    said = ["-m", "siltstone", "-o", "max_tokens", "8"]
    assert llm(*said, "Who sailed to the island?").strip()
    assert llm("-c", "-o", "max_tokens", "8", "And then?").strip()
    logged = json.loads(llm("logs", "--json", "-n", "2"))
    assert len({row["conversation_id"] for row in logged}) == 1
    usage = [json.loads(row["token_details"]) if row["token_details"] else {} for row in logged]
    first, second = sorted(zip(logged, usage, strict=True), key=lambda pair: pair[0]["datetime_utc"])
    total = first[0]["input_tokens"] + first[0]["output_tokens"]
    assert second[1]["prompt_tokens_details"]["cached_tokens"] == total


def test_litellm_routes_to_the_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its list of prices is not fetched
    litellm = client_of("litellm")
    keys: dict[str, Any] = {"model": "openai/demo", "api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}
    messages: list[Any] = [{"role": "user", "content": "Of routes."}]
    one = litellm.completion(messages=messages, max_tokens=8, temperature=0, **keys)
    messages += [{"role": "assistant", "content": one.choices[0].message.content}, {"role": "user", "content": "Go on."}]
    two = litellm.completion(messages=messages, max_tokens=8, temperature=0, **keys)
    assert two.usage.prompt_tokens_details.cached_tokens == one.usage.total_tokens
    pieces = list(litellm.completion(messages=messages, max_tokens=8, temperature=0, stream=True, **keys))
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == two.choices[0].message.content
    text = litellm.text_completion(**keys | {"model": "text-completion-openai/demo"}, prompt="Of texts, ", max_tokens=8)
    assert text.choices[0].text
    kept = litellm.responses(input="Of responses.", max_output_tokens=8, **keys)
    more = litellm.responses(input="More.", max_output_tokens=8, previous_response_id=kept.id, **keys)
    assert more.usage.input_tokens_details.cached_tokens == kept.usage.total_tokens
    with pytest.raises(litellm.exceptions.BadRequestError):
        litellm.completion(messages=messages, response_format={"type": "json_object"}, **keys)


def test_lm_eval_scores_with_local_completions(url: str, pair: tuple[Any, Any], tmp_path: Path) -> None:
    """Its likelihoods are those of a local session, and its greedy texts those of the model."""
    client_of("lm_eval")
    models = importlib.import_module("lm_eval.models.openai_completions")
    instance = importlib.import_module("lm_eval.api.instance").Instance
    fast = importlib.import_module("transformers").PreTrainedTokenizerFast
    model, tok = pair
    fast(tokenizer_file=str(st.demo_run() / "tokenizer.json"), eos_token="<eos>").save_pretrained(tmp_path)
    lm = models.LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model="demo",
        tokenizer_backend="huggingface",
        tokenizer=str(tmp_path),
        max_retries=1,
        num_concurrent=1,
    )
    pairs = [("The ship sailed to the", " island"), ("Gentlemen of the", " Congress"), ("One", " two three")]
    found = lm.loglikelihood([instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    for (context, continuation), (logp, _) in zip(pairs, found, strict=True):
        session = st.Session(model, tok)
        ids = lm.tok_encode(context)
        session.append(ids)
        more = lm.tok_encode(context + continuation)[len(ids) :]
        assert logp == pytest.approx(float(session.score(more).sum()), abs=1e-3)
    keys = {"until": ["\n\n"], "max_gen_toks": 8, "temperature": 0}
    [said] = lm.generate_until([instance("generate_until", {}, ("Gentlemen of the", keys), 0)])
    session = st.Session(model, tok)
    session.append(lm.tok_encode("Gentlemen of the"))
    assert said and "".join(session.generate(8, temperature=0.0)).startswith(said)
