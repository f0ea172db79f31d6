"""A pretrained decoder has transformers' own logits: in one call, in any calls, token by token, in a session."""

from __future__ import annotations

import copy

import pytest
import torch

import siltstone as st
from siltstone.models.stream_state import LMState

from . import tiny
from .tiny import IDS, close, every_kind, theirs


@every_kind
@torch.no_grad()
def test_logits_are_those_of_transformers(kind: str) -> None:
    made = tiny.decoder(kind)
    lm, _ = st.from_hf(made)
    want = theirs(made)
    assert not lm.training and set(lm.cfg.letters) <= {"a", "w"}
    close(lm(IDS)[0], want)
    state, parts = None, []
    for part in IDS.split([1, 40, 1, 1, 64, 43], 1):
        logits, state = lm(part, state)
        parts.append(logits)
    close(torch.cat(parts, 1), want)


@every_kind
@torch.no_grad()
def test_rows_at_positions_of_their_own_step_to_the_same_logits(kind: str) -> None:
    made = tiny.decoder(kind)
    lm, _ = st.from_hf(made)
    want, ages = theirs(made), (3, 60)
    state = LMState.cat([lm(IDS[b : b + 1, :age])[1] for b, age in enumerate(ages)])
    for turn in range(40):
        at = torch.tensor([age + turn for age in ages])
        logits, state = lm.step(IDS[torch.arange(2), at], state, inplace=turn % 2 == 0)
        close(logits, want[torch.arange(2), at])


@pytest.mark.parametrize("kind", ["llama, llama3", "mistral, window", "qwen3, biases, yarn", "olmo2"])
@torch.no_grad()
def test_padded_rows_are_the_rows_alone(kind: str) -> None:
    made = tiny.decoder(kind)
    lm, _ = st.from_hf(made)
    mask = torch.ones(2, 150, dtype=torch.bool)
    mask[1, :37] = False
    ids = IDS.clone()
    ids[1, 37:] = IDS[1, :113]
    got = lm(ids, mask=mask)[0]
    close(got[0], theirs(made)[0])
    close(got[1, 37:], theirs(made)[1, :113])


@torch.no_grad()
def test_the_rotation_is_exact_far_away() -> None:
    """Scores depend on distances: a text that begins late, after a reset of nothing but its position, has the same logits."""
    made = tiny.decoder("mistral, window")
    lm, _ = st.from_hf(made, dtype=torch.float64)
    near = lm(IDS)[0]
    far = lm(torch.cat([IDS[:, :1].expand(-1, 4000), IDS], 1))[0]
    window = 17 * lm.cfg.depth
    close(far[:, 4000 + window :], near[:, window:], 1e-9)


def test_a_model_in_memory_is_copied() -> None:
    made = tiny.decoder("llama, tied, wide heads")
    before = {name: x.clone() for name, x in made.state_dict().items()}
    lm, tok = st.from_hf(made)
    assert tok is None and lm.cfg.tie
    with torch.no_grad():
        for p in lm.parameters():
            p.zero_()
    assert all(torch.equal(x, before[name]) for name, x in made.state_dict().items())


@torch.no_grad()
def test_weights_of_float64_keep_their_bits() -> None:
    made = copy.deepcopy(tiny.decoder("llama")).double()
    made.model.norm.weight.add_(2.0**-40)
    lm, _ = st.from_hf(made, dtype=torch.float64)
    assert torch.equal(lm.norm.weight, made.model.norm.weight)


def test_changes_are_keys_of_ours() -> None:
    made = tiny.decoder("llama")
    lm, _ = st.from_hf(made, pattern="w", window=40, sinks=4)
    assert (lm.cfg.pattern, lm.cfg.layer.window, lm.cfg.layer.sinks) == ("w", 40, 4)
    with torch.no_grad():
        close(lm(IDS[:, :40])[0], theirs(made, IDS[:, :40]))  # nothing has left the window
    lm, _ = st.from_hf(tiny.decoder("smollm3 of its own theta"), layers={"-1": {"rope_theta": 500.0}})
    assert [layer.position for layer in lm.cfg.layer_configs] == ["rope", "none", "rope"]
    assert [layer.rope_theta for layer in lm.cfg.layer_configs] == [2e6, 2e6, 500.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(pattern="m"), ["pattern='m'", "need weights", "memory"]),
        (dict(qkv_bias=True), ["qkv_bias=True", "mix.window.qkv.bias"]),
        (dict(depth=2), ["depth=2", "leave out weights", "blocks.2"]),
        (dict(mlp_dim=64), ["mlp_dim=64", "has shape"]),
        (dict(windw=4), ["'windw'", "did you mean 'window'"]),
        (dict(rope_scaling={"type": "dynamic"}), ["'dynamic'", "'yarn'"]),
    ],
)
def test_changes_that_the_decoders_weights_do_not_allow(changes: dict, words: list[str]) -> None:
    with pytest.raises(st.errors.SiltstoneError) as refused:
        st.from_hf(tiny.decoder("llama"), **changes)
    assert all(word in str(refused.value) for word in words), refused.value
