"""The oracle's update rules against hand-computed values and torch's own GRU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from .memories import MEMORIES, Deep, Gated, GatedDelta, Mlstm, Slots, Swla
from .rule import Matrix, l2, rms
from .vectors import Gru, Slstm
from .weights import BASE, DEEP, INNER, layer_weights, stream

ONE = BASE | dict(d_model=2, heads=1, head_dim=2, router_dim=2)


def hand_weights(gates: list[float]) -> dict[str, Tensor]:
    """k = v = q = the input itself (k and q normalised), gates constant."""
    eye = torch.eye(2).double()
    bias = torch.tensor(gates, dtype=torch.float64)
    return {
        "memory.query.weight": eye,
        "memory.write.weight": torch.cat([eye, eye]),
        "memory.gates.weight": torch.zeros(len(gates), 2).double(),
        "memory.gates.bias": bias,
    }


def vec(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_linear_adds_outer_products() -> None:
    rule = Matrix(ONE, hand_weights([]))
    state = rule.write(rule.write(rule.init(), vec(3, 0)), vec(0, 2))
    assert torch.allclose(state[0], torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]).double(), atol=1e-6)
    assert torch.allclose(rule.read(state, vec(5, 0)), vec(3, 0)[None], atol=1e-6)


def test_gated_decays_then_adds() -> None:
    rule = Gated(ONE, hand_weights([0.0, math.log(3)]))  # a = 1/2, b = 3/4
    state = rule.write(rule.write(rule.init(), vec(4, 0)), vec(0, 4))
    assert torch.allclose(state[0], torch.tensor([[[1.5, 0.0], [0.0, 3.0]]]).double(), atol=1e-6)


def test_gated_delta_replaces_what_a_key_held() -> None:
    rule = GatedDelta(ONE, hand_weights([40.0, 40.0]))  # a = b = 1
    state = rule.write(rule.write(rule.init(), vec(4, 0)), vec(7, 0))
    assert torch.allclose(state[0], torch.tensor([[[7.0, 0.0], [0.0, 0.0]]]).double(), atol=1e-5)
    half = GatedDelta(ONE, hand_weights([0.0, 0.0]))  # a = b = 1/2
    state = half.write(half.write(half.init(), vec(4, 0)), vec(8, 0))
    assert state[0][0, 0, 0] == pytest.approx(0.5 * 0.5 * 2 + 4)


def test_swla_writes_the_last_write_again() -> None:
    rule = Swla(ONE, hand_weights([0.0, math.log(3), 0.0]))  # a = 1/2, b = 3/4, l = 1/2
    state = rule.write(rule.init(), vec(4, 0))
    assert torch.allclose(state[0], torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).double(), atol=1e-6)
    state = rule.write(state, vec(0, 8))  # 2 / 2 + 4 * 3/4, and 8 / 2
    assert torch.allclose(state[0], torch.tensor([[[4.0, 0.0], [0.0, 4.0]]]).double(), atol=1e-5)
    state = rule.write(state, vec(0, 0))
    assert torch.allclose(state[0], torch.tensor([[[2.0, 0.0], [0.0, 8.0]]]).double(), atol=1e-5)
    assert torch.allclose(rule.read(rule.leaves(state), vec(0, 3)), vec(0, 8)[None], atol=1e-5)


def test_mlstm_divides_by_a_sum_of_keys_above_one() -> None:
    rule = Mlstm(ONE, hand_weights([0.0, math.log(2)]))  # f = 1/2, i = 2
    state = rule.write(rule.init(), vec(3, 0))
    assert torch.allclose(state[0], torch.tensor([[[18.0, 0.0], [0.0, 0.0]]]).double() / math.sqrt(2))
    assert torch.allclose(state[1], vec(6, 0)[None] / math.sqrt(2))
    assert torch.allclose(rule.read(state, vec(1, 5)), vec(3, 0)[None])  # 18 / 6
    assert torch.allclose(rule.read(state, vec(-0.1, 0)), vec(-1.8, 0)[None] / math.sqrt(2))  # |q n| = 0.42
    state = rule.write(state, vec(1, 1))  # C = [[9 + 2, 2], [2, 2]] / sqrt(2), n = [3 + 2, 2] / sqrt(2)
    assert torch.allclose(rule.read(state, vec(1, -1)), vec(9, 0)[None] / 3)


def test_gru_is_torchs() -> None:
    cfg = BASE | dict(memory="gru")
    w, x = layer_weights(cfg), stream(6)
    rule = Gru(cfg, w)
    state, states = rule.init(), []
    for c in x:
        state = rule.write(state, c)
        states.append(state[0].reshape(-1))
    gru = torch.nn.GRU(8, 8, batch_first=True).double()
    gru.load_state_dict({n.removeprefix("memory.gru."): p for n, p in w.items() if n.startswith("memory.gru.")})
    normed = torch.nn.functional.rms_norm(x, (8,), w["memory.norm.weight"], 1e-6)
    assert torch.allclose(torch.stack(states), gru(normed[None])[0][0], rtol=0, atol=1e-13)


def test_deep_first_step_is_the_gradient_by_hand() -> None:
    cfg = BASE | DEEP
    w, c = layer_weights(cfg), stream(1)[0]
    w["memory.w_out"] = torch.zeros_like(w["memory.w_out"])
    rule = Deep(cfg, w)
    k, v = rule.key_value(c)
    eta = 0.5 * torch.sigmoid(rule.gates(c))
    w_in, w_out, *_ = rule.write(rule.init(), c)
    hidden = gelu(torch.einsum("hk,hkf->hf", k, w["memory.w_in"]))
    assert torch.allclose(w_in, w["memory.w_in"])  # with W_out = 0 nothing flows back to W_in
    assert torch.allclose(w_out, eta[:, None, None] * torch.einsum("hf,hk->hfk", hidden, v), atol=1e-14)


@pytest.mark.parametrize("memory", ["deep", "slots"])
def test_writes_of_an_inner_batch_share_their_base(memory: str) -> None:
    """With b = 2 the order of the two writes of a batch does not matter; with b = 1 it does."""
    x = stream(3)
    for batch, equal in ((2, True), (1, False)):
        cfg = BASE | INNER[memory]
        cfg |= dict(memory_options=cfg["memory_options"] | dict(inner_batch=batch))
        rule = MEMORIES[memory](cfg, layer_weights(cfg))
        ends = []
        for order in ([0, 1, 2], [1, 0, 2]):
            state = rule.init()
            for i in order:
                state = rule.write(state, x[i])
            ends.append(state[0])
        assert torch.allclose(ends[0], ends[1], rtol=0, atol=1e-13) is equal


def test_deep_cut_starts_a_new_batch() -> None:
    cfg = BASE | DEEP
    rule = Deep(cfg, layer_weights(cfg))
    x = stream(2)
    state = rule.write(rule.init(), x[0])
    cut = rule.write(rule.cut(state), x[1])
    assert torch.equal(cut[2], state[0])
    assert not torch.equal(rule.write(state, x[1])[2], state[0])


def test_slstm_is_the_recurrence_without_a_stabiliser() -> None:
    cfg = BASE | dict(memory="slstm")
    w, x = layer_weights(cfg), stream(9)
    rule = Slstm(cfg, w)
    state, c, n, h = rule.init(), torch.zeros(8).double(), torch.zeros(8).double(), torch.zeros(8).double()
    blocks = w["memory.recurrent"].view(2, 4, 4, 4)  # head, from, gate, to
    for x_D in x:
        state = rule.write(state, x_D)
        inside = (w["memory.write.weight"] @ rms(x_D, w["memory.norm.weight"], 1e-6) + w["memory.write.bias"]).view(4, 8)
        around = [torch.block_diag(*blocks[:, :, gate].transpose(-1, -2)) @ h for gate in range(4)]
        z, i, f, o = inside + torch.stack(around)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        assert torch.allclose(state[0].reshape(8), h, rtol=0, atol=1e-13)
        assert torch.allclose(state[2].reshape(8) * state[3].reshape(8).exp(), n, rtol=1e-13)


def test_slstm_weighs_by_exponential_gates() -> None:
    """Gates that do not see h: z = x_1, i = e^x_2, f = 1/2, o = 1 (the token is normalised: 3, 1 becomes 3, 1 over sqrt 5)."""
    rule = Slstm(
        BASE | dict(d_model=2, heads=1, head_dim=1),
        {
            "memory.norm.weight": vec(math.sqrt(5), math.sqrt(5)),
            "memory.write.weight": torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]).double(),
            "memory.write.bias": vec(0, 0, 0, 50),
            "memory.recurrent": torch.zeros(1, 1, 4).double(),
        },
    )
    state = rule.write(rule.init(), vec(3, 1))
    assert state[0].item() == pytest.approx(math.tanh(3), abs=1e-6)  # the only write, whatever its weight
    state = rule.write(state, vec(-1, 3))
    want = (0.5 * math.e * math.tanh(3) + math.e**3 * math.tanh(-1)) / (0.5 * math.e + math.e**3)
    assert state[0].item() == pytest.approx(want, abs=1e-6)


def slots(gate: str, bias: list[float]) -> Slots:
    """One slot, at 0.4, 0.8, that looks for the key 1, 0; a matching write weighs 3, one at right angles 1, nothing 1."""
    parts = {"lstm": 3, "gru": 2}[gate]
    cfg = ONE | dict(memory="slots", memory_options=dict(inner_batch=2, number=1, gate=gate))
    zero = torch.zeros(1, 2, 2).double()
    return Slots(
        cfg,
        hand_weights([])
        | {
            "memory.first": vec(0.4, 0.8).view(1, 1, 2),
            "memory.seek": zero,
            "memory.seek_id": vec(5, 0).view(1, 1, 2),
            "memory.seek_scale": vec(math.log(math.log(3))),
            "memory.gate": torch.cat([torch.eye(2).double(), torch.zeros(2, 2 * parts - 2).double()], 1)[None],
            "memory.bias": torch.tensor(bias, dtype=torch.float64).repeat_interleave(2),
        },
    )


def test_slots_attend_to_the_writes_of_a_batch() -> None:
    rule = slots("lstm", [0.0, 40.0, -40.0])  # slot = tanh(a)
    one = rule.write(rule.init(), vec(2, 0))
    two = rule.write(one, vec(0, 5))
    three = rule.write(two, vec(0, 5))  # of a new batch
    for state, want in ((one, (3 * 2 / 4, 0)), (two, (3 * 2 / 5, 5 / 5)), (three, (0, 5 / 2))):
        assert torch.allclose(state[0].flatten(), torch.tanh(vec(*want)), atol=1e-5)


def test_slots_keep_what_their_gate_keeps() -> None:
    x, first = vec(2, 0), vec(0.4, 0.8)
    new = torch.tanh(vec(1.5, 0))
    for gate, bias, want in (
        ("lstm", [0.0, -math.log(3), math.log(3)], 0.75 * first + 0.25 * new),
        ("gru", [0.0, -math.log(3)], 0.75 * first + 0.25 * new),
        ("lstm", [0.0, 40.0, 40.0], first + new),
    ):
        rule = slots(gate, bias)
        assert torch.allclose(rule.write(rule.init(), x)[0].flatten(), want, atol=1e-5)


def test_slots_cut_starts_a_new_batch() -> None:
    cfg = BASE | INNER["slots"]
    rule, x = Slots(cfg, layer_weights(cfg)), stream(2)
    state = rule.write(rule.init(), x[0])
    cut = rule.write(rule.cut(state), x[1])
    assert torch.equal(cut[1], state[0]) and len(cut[3]) == 1
    assert not torch.equal(rule.write(state, x[1])[1], state[0])


@pytest.mark.parametrize("memory", MEMORIES)
def test_gradients_are_the_finite_differences(memory: str) -> None:
    cfg = BASE | INNER.get(memory, dict(memory=memory))
    w, x = layer_weights(cfg), stream(4)
    names = [n for n in w if n.startswith("memory.")]

    def read(x_TD: Tensor, *values: Tensor) -> Tensor:
        rule = MEMORIES[memory](cfg, w | dict(zip(names, values, strict=True)))
        state = rule.init()
        for c in x_TD[:3]:
            state = rule.write(state, c)
        return rule.read(rule.leaves(state), x_TD[3])

    assert torch.autograd.gradcheck(read, [t.clone().requires_grad_() for t in (x, *[w[n] for n in names])], fast_mode=True)


def test_zero_stays_zero_when_normalised() -> None:
    assert torch.equal(l2(torch.zeros(3)), torch.zeros(3))
    assert torch.allclose(l2(vec(3, 4)), vec(0.6, 0.8), atol=1e-6)
