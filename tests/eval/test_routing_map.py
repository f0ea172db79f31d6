"""The routing map of a text: shares of checkpoints at the ends of segments, without a change of the model."""

from __future__ import annotations

import pytest
import torch

import siltstone as st
from siltstone.eval.routing_map import routing_map
from siltstone.report.compare import routing_figure

IDS = torch.randint(0, 64, (100,), generator=torch.Generator().manual_seed(0))


def model(**keys: object) -> st.LM:
    torch.manual_seed(0)
    base = dict(vocab_size=64, d_model=32, heads=2, depth=2, window=8, segment=16, segments="constant")
    return st.LM(st.LMConfig.from_dict(base | keys)).eval()


@pytest.mark.parametrize("keys", [{"cache": "gated"}, {"cache": "sparse", "top_k": 2}])
def test_shares_of_checkpoints(keys: dict) -> None:
    lm = model(**keys)
    with torch.no_grad():
        before = lm(IDS[None])[0]
    found = routing_map(lm, IDS)
    assert found is not None and found["segment"] == 16
    assert [row["position"] for row in found["rows"]] == [32, 48, 64, 80, 96]  # at 16 nothing is sealed
    assert [len(row["shares"]) for row in found["rows"]] == [1, 2, 3, 4, 5]
    assert all(sum(row["shares"]) == pytest.approx(1) for row in found["rows"])
    with torch.no_grad():
        assert torch.equal(lm(IDS[None])[0], before)
    drawn = routing_figure("name", found)
    assert drawn.count("<svg") == 2 and "16 tokens" in drawn and routing_figure("name", None) == ""


@pytest.mark.parametrize(
    "keys", [{"cache": "none", "segment": 256}, {"cache": "residual"}, {"cache": "gated", "max_checkpoints": 2}]
)
def test_models_without_a_map(keys: dict) -> None:
    if keys["cache"] == "none":
        torch.manual_seed(0)
        lm = st.LM(st.LMConfig.from_dict(dict(vocab_size=64, d_model=32, heads=2, depth=1, window=8, cache="none"))).eval()
    else:
        lm = model(**keys)
    assert routing_map(lm, IDS) is None


def test_a_map_of_a_text_has_its_words() -> None:
    """What was read, and the beginning of the checkpoint that has the largest share; sinks are in no checkpoint."""
    lm = model(cache="gated", sinks=2)
    found = routing_map(lm, IDS, text=lambda ids: " ".join(map(str, ids)) + "<")
    plain = routing_map(lm, IDS)
    assert found is not None and plain is not None
    assert [{k: row[k] for k in ("position", "shares")} for row in found["rows"]] == plain["rows"]
    words = [str(x) for x in IDS.tolist()]
    for row in found["rows"]:
        most, end = row["most"]["checkpoint"], row["position"]
        assert row["shares"][most] == max(row["shares"])
        assert row["read"] == " ".join(words[max(0, end - 64) : end]) + "<"
        assert row["most"]["text"] == " ".join(words[2 + 16 * most : 18 + 16 * most]) + "<"
    drawn = routing_figure("name", found)
    assert drawn.count("class='box'") == 5 and "&lt;" in drawn and "At token 96" in drawn
    assert "class='box'" not in routing_figure("name", plain)
