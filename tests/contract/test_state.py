"""State is a value: forks, streams side by side, rows taken apart and put together, saving and going on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .common import close, feed, init_state
from .grid import CHOSEN, Case
from .models import IDS, after, make_model, model_config, new_model, same_bits, stepwise, the_model, through_bytes, whole

every_pair = pytest.mark.parametrize("case", CHOSEN)


@every_pair
def test_forward_is_pure(case: Case) -> None:
    model, state = the_model(case), after(case, 17)
    before = {name: t.clone() for name, t in state.tensors().items()}
    first, _ = model(IDS[:1, 17:30], state)
    model(IDS[1:2, :20], state)
    stepwise(model, IDS[2:, :9], state)
    again, _ = model(IDS[:1, 17:30], state)
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], t) for name, t in state.tensors().items())
    assert state.position.tolist() == [17]


@every_pair
def test_forks_are_isolated_from_decoding_in_place(case: Case) -> None:
    """An original, its fork and a fork of that go on with texts of their own, turn by turn, in place."""
    model = the_model(case)
    _, original = stepwise(model, IDS[:1, 10:17], after(case, 10), inplace=True)
    fork = original.fork()
    states = [original, fork, fork.fork()]
    texts = torch.cat([IDS[:1, :17].expand(3, -1), IDS[:, 20:36]], 1)
    want, _ = model(texts, init_state(model, 3, case.phase))
    at = 17
    for size in (1, 1, 1, 1, 1, 6, 1, 1, 1, 1, 1):
        for b in (2, 0, 1):
            y, states[b] = model(texts[b : b + 1, at : at + size], states[b], inplace=True)
            close(y, want[b : b + 1, at : at + size])
        at += size
    assert [int(state.position[0]) for state in states] == [at] * 3


@every_pair
def test_two_streams_side_by_side(case: Case) -> None:
    model = the_model(case)
    states = [init_state(model, 1, case.phase) for _ in range(2)]
    outs: list[list[torch.Tensor]] = [[], []]
    at = 0
    for size in (3, 1, 1, 7, 1, 0, 1, 12, 1, 1, 1, 1, 10):
        for b in range(2):
            y, states[b] = model(IDS[b : b + 1, at : at + size], states[b], inplace=True)
            outs[b].append(y)
        at += size
    for b in range(2):
        close(torch.cat(outs[b], 1), whole(case)[b : b + 1, :at])


@every_pair
def test_rows_are_taken_apart_and_put_together(case: Case) -> None:
    """Rows that stand at different positions, with different numbers of checkpoints, go on together as they would alone."""
    model, ends = the_model(case), [0, 9, 30]
    joined = type(after(case, 1)).cat([after(case, n, row) for row, n in enumerate(ends)])
    assert joined.position.tolist() == ends
    mixed = joined.select([2, 0, 1, 2])
    assert mixed.position.tolist() == [30, 0, 9, 30]
    for state, rows, inplace in ((joined, [0, 1, 2], False), (mixed.fork(), [2, 0, 1, 2], True)):
        ids = torch.stack([IDS[row, ends[row] : ends[row] + 9] for row in rows])
        want = torch.stack([whole(case)[row, ends[row] : ends[row] + 9] for row in rows])
        y, state = feed(model, ids, state, [1, 2, 6], inplace)
        close(y, want)
        for b, row in enumerate(rows):
            y, _ = model(IDS[row : row + 1, ends[row] + 9 :][:, :1], state.select([b]))
            close(y, whole(case)[row : row + 1, ends[row] + 9 :][:, :1])


@every_pair
def test_a_state_saved_and_read_again_goes_on_bit_by_bit(case: Case) -> None:
    model = the_model(case)
    for n in (0, case.first_cut, 21):
        state = after(case, n)
        back = through_bytes(model, state)
        same_bits(back, state)
        (y, one), (z, two) = (feed(model, IDS[:1, n : n + 12], s, [1, 2, 3, 9]) for s in (state, back))
        assert torch.equal(y, z)
        same_bits(one, two)


@every_pair
def test_a_decoded_state_saved_and_read_again_goes_on_bit_by_bit(case: Case) -> None:
    """The same after decoding in place, where buffers may be larger than what they hold."""
    model = the_model(case)
    _, state = stepwise(model, IDS[:1, 12:21], after(case, 12), inplace=True)
    back = through_bytes(model, state)
    (y, one), (z, two) = (stepwise(model, IDS[:1, 21:35], s, inplace=True) for s in (state, back))
    assert torch.equal(y, z)
    same_bits(one, two)


@every_pair
def test_moving_and_detaching(case: Case) -> None:
    model = new_model(case).requires_grad_(True)
    y, state = model(IDS[:1, :20], init_state(model, 1, case.phase))
    kept = model(IDS[:1, 20:30], state.to(device="cpu", dtype=torch.float64))[0]
    cut = model(IDS[:1, 20:30], state.detach())[0]
    close(kept, whole(case)[:1, 20:30])
    close(cut, whole(case)[:1, 20:30])
    grads = [torch.autograd.grad(z.sum(), model.embed.weight, retain_graph=True)[0] for z in (kept, cut)]
    assert not torch.allclose(grads[0], grads[1])
    assert not any(t.requires_grad for t in state.detach().tensors().values())


@every_pair
def test_backward_works_after_the_stream_went_on(case: Case) -> None:
    """What a later call appends must not disturb what an earlier call keeps for its gradient."""
    model = new_model(case).requires_grad_(True)
    with torch.no_grad():
        _, state = model(IDS[:1, :12], init_state(model, 1, case.phase))
    for n in range(12, 20):
        y, after_y = model(IDS[:1, n : n + 1], state)
        (alone,) = torch.autograd.grad(y.sum(), model.embed.weight, retain_graph=True)
        with torch.no_grad():
            stepwise(model, IDS[1:2, :5], after_y)
            _, state = model(IDS[:1, n : n + 1], state)
        (later,) = torch.autograd.grad(y.sum(), model.embed.weight)
        assert torch.equal(later, alone)


@every_pair
def test_bytes_are_counted(case: Case) -> None:
    state = after(case, 30)
    assert sum(state.parts().values()) == state.nbytes > 0
    assert after(case, 30).fork().nbytes == state.nbytes


def test_rows_have_phases_of_their_own_and_keep_them() -> None:
    from ..oracle import lm
    from .common import weights

    case = next(c for c in CHOSEN if c.cfg["memory"] == "gated" and c.cfg["cache"] == "gated")
    cfg = model_config(case.cfg)
    model = the_model(case)
    phases = list(range(case.cfg["segment"] // (case.cfg["compress_every"] or case.cfg["rate"])))
    ids = IDS[:1].repeat(len(phases), 1)
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, 22] = True
    y, state = feed(model, ids, init_state(model, len(phases), phases), [5, 9, 23, 30], reset=reset)
    assert state.phase.tolist() == phases
    assert state.position.tolist() == [18] * len(phases)
    assert isinstance(state.phase, np.ndarray) and state.phase.dtype == np.int64
    for b, phase in enumerate(phases):
        for part in (slice(0, 22), slice(22, 40)):
            close(y[b, part], lm.run(cfg, weights(model), IDS[0, part].tolist(), phase, case.cuts or ()))


@every_pair
def test_states_of_another_shape_are_refused(case: Case) -> None:
    model, state = the_model(case), after(case, 21)
    tensors, meta = state.tensors(), state.meta()
    name = max(tensors, key=lambda n: tensors[n].numel())
    with pytest.raises((ValueError, KeyError)):
        model.load_state({n: t for n, t in tensors.items() if n != name}, meta)
    with pytest.raises((ValueError, KeyError)):
        model.load_state(tensors | {name: tensors[name][..., :-1]}, meta)
    other = make_model(model_config(case.cfg, d_model=16, head_dim=6))
    with pytest.raises((ValueError, KeyError)):
        other.load_state(tensors, meta)


@every_pair
def test_calls_without_a_row_or_a_token(case: Case) -> None:
    model, state = the_model(case), after(case, 13)
    none = state.select([])
    y, none = model(IDS[:0, :5], none)
    assert y.shape == (0, 5, y.shape[-1]) and len(none.position) == 0
    y, same = model(IDS[:1, :0], state)
    assert y.shape[:2] == (1, 0)
    _, same = model(IDS[:1, :6], same, mask=torch.zeros(1, 6, dtype=torch.bool), reset=torch.ones(1, 6, dtype=torch.bool))
    same_bits(same, state)
    assert type(state).cat([none, state]).position.tolist() == [13]
