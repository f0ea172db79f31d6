"""Update rules with keys and values, and all of them by name; those that are a vector a head stand in vectors.py."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, logsigmoid

from .rule import Matrix, State, l2
from .vectors import Gru, Lstm, MinGru, MinLstm, Slstm


class Linear(Matrix):
    """S <- S + f(k) v^T, o = f(q) S; normalised: z <- z + f(k), o = f(q) S / (f(q) z + 1e-6)."""

    def feature(self, z_HK: Tensor) -> Tensor:
        name = self.cfg["memory_options"].get("feature", "identity")
        if name == "elu":
            return torch.where(z_HK > 0, z_HK, torch.exp(z_HK.clamp(max=0)) - 1) + 1
        return torch.softmax(z_HK, dim=-1) if name == "softmax" else l2(z_HK)

    def init(self) -> State:
        (zero,) = super().init()
        return zero, zero[..., 0]

    def query(self, x_D: Tensor) -> Tensor:
        return self.feature((self.w["memory.query.weight"] @ x_D).view(self.H, self.K))

    def key_value(self, c_D: Tensor) -> tuple[Tensor, Tensor]:
        kv = self.w["memory.write.weight"] @ c_D
        return self.feature(kv[: self.H * self.K].view(self.H, self.K)), kv[self.H * self.K :].view(self.H, self.V)

    def write(self, state: State, c_D: Tensor) -> State:
        k, v = self.key_value(c_D)
        return state[0] + torch.einsum("hk,hv->hkv", k, v), state[1] + k

    def ask(self, leaves: State, q_HK: Tensor) -> Tensor:
        out = torch.einsum("hk,hkv->hv", q_HK, leaves[0])
        return out / ((q_HK * leaves[1]).sum(-1, keepdim=True) + 1e-6) if self.cfg["memory_options"].get("normalise") else out


class Gated(Matrix):
    """S <- a S + b k v^T, log a = logsigmoid(gate), b = sigmoid(gate); a for every head, or for every channel of the keys."""

    def decay_and_strength(self, c_D: Tensor) -> tuple[Tensor, Tensor]:
        g = self.gates(c_D)
        if self.cfg["memory_options"].get("decay") == "channel":
            fade = logsigmoid(self.w["memory.fade.weight"] @ c_D + self.w["memory.fade.bias"]).clamp(min=-5.0)
            return fade.exp().view(self.H, self.K, 1), torch.sigmoid(g)[:, None, None]
        return logsigmoid(g[: self.H]).exp()[:, None, None], torch.sigmoid(g[self.H :])[:, None, None]

    def beta(self, c_D: Tensor) -> Tensor:
        return self.decay_and_strength(c_D)[1][:, :, 0]

    def write(self, state: State, c_D: Tensor) -> State:
        k, v = self.key_value(c_D)
        a, b = self.decay_and_strength(c_D)
        return (a * state[0] + b * torch.einsum("hk,hv->hkv", k, v),)


class GatedDelta(Gated):
    """S <- a (I - b k k^T) S + b k v^T, b up to 2 if asked."""

    def beta(self, c_D: Tensor) -> Tensor:
        return super().beta(c_D) * (2 if self.cfg["memory_options"].get("negative") else 1)

    def write(self, state: State, c_D: Tensor) -> State:
        k, v = self.key_value(c_D)
        a, b = self.decay_and_strength(c_D)
        if self.cfg["memory_options"].get("negative"):
            b = 2 * b
        erase = torch.eye(self.K, dtype=c_D.dtype) - b * torch.einsum("hk,hl->hkl", k, k)
        return (a * (erase @ state[0]) + b * torch.einsum("hk,hv->hkv", k, v),)


class Delta(GatedDelta):
    """S <- (I - b k k^T) S + b k v^T, b up to 2 if asked."""

    def decay_and_strength(self, c_D: Tensor) -> tuple[Tensor, Tensor]:
        b = torch.sigmoid(self.gates(c_D))[:, None, None]
        return torch.ones_like(b), b


class Swla(Matrix):
    """S <- a S + b k' v'^T + l k v^T with k' and v' of the write before, zeros at first. State: S, k, v."""

    def init(self) -> State:
        (zero,) = super().init()
        return zero, zero[:, :, 0], zero[:, 0]

    def beta(self, c_D: Tensor) -> Tensor:
        return torch.sigmoid(self.gates(c_D).view(3, self.H, 1)[2])

    def write(self, state: State, c_D: Tensor) -> State:
        matrix, last_k, last_v = state
        k, v = self.key_value(c_D)
        g = self.gates(c_D).view(3, self.H, 1, 1)
        faded = logsigmoid(g[0]).exp() * matrix
        again = torch.sigmoid(g[1]) * torch.einsum("hk,hv->hkv", last_k, last_v)
        return faded + again + torch.sigmoid(g[2]) * torch.einsum("hk,hv->hkv", k, v), k, v

    def leaves(self, state: State) -> State:
        return state[:1]


class Mlstm(Matrix):
    """C <- f C + i k v^T, n <- f n + i k, o = q C / max(|q n|, 1), without a stabiliser; f = sigmoid, i = exp, k over sqrt(K)."""

    def init(self) -> State:
        (zero,) = super().init()
        return zero, zero[:, :, 0]

    def query(self, x_D: Tensor) -> Tensor:
        return (self.w["memory.query.weight"] @ x_D).view(self.H, self.K)

    def key_value(self, c_D: Tensor) -> tuple[Tensor, Tensor]:
        kv = self.w["memory.write.weight"] @ c_D
        return kv[: self.H * self.K].view(self.H, self.K) / self.K**0.5, kv[self.H * self.K :].view(self.H, self.V)

    def write(self, state: State, c_D: Tensor) -> State:
        k, v = self.key_value(c_D)
        forget, enter = self.gates(c_D).view(2, self.H)
        f, i = torch.sigmoid(forget), torch.exp(enter)
        grown = f[:, None, None] * state[0] + i[:, None, None] * torch.einsum("hk,hv->hkv", k, v)
        return grown, f[:, None] * state[1] + i[:, None] * k

    def ask(self, leaves: State, q_HK: Tensor) -> Tensor:
        size = (q_HK * leaves[1]).sum(-1, keepdim=True).abs()
        return torch.einsum("hk,hkv->hv", q_HK, leaves[0]) / torch.clamp(size, min=1.0)


class Deep(Matrix):
    """An MLP M(q) = q + gelu(q W_in) W_out; every write takes a gradient step on L = -<M(k), v>.

    State: W_in [H, K, F], W_out [H, F, K], the base weights at which gradients are taken, and how many writes since the cut.
    """

    def init(self) -> State:
        w_in, w_out = self.w["memory.w_in"], self.w["memory.w_out"]
        return w_in, w_out, w_in, w_out, torch.zeros((), dtype=torch.long)

    def cut(self, state: State) -> State:
        return *state[:4], torch.zeros((), dtype=torch.long)

    def apply(self, w_in: Tensor, w_out: Tensor, q_HK: Tensor) -> Tensor:
        return q_HK + torch.einsum("hf,hfk->hk", gelu(torch.einsum("hk,hkf->hf", q_HK, w_in)), w_out)

    def settled(self, sums: State) -> State:
        return tuple(self.limited(x, self.w[name]) for x, name in zip(sums, ("memory.w_in", "memory.w_out"), strict=True))

    def limited(self, w: Tensor, first: Tensor) -> Tensor:
        """At most `limit` times the first norm, in every head."""
        limit = self.cfg["memory_options"].get("limit", 2.0)
        if limit is None:
            return w
        most, size = (x.square().sum((-2, -1), keepdim=True).sqrt() for x in (first, w))
        return torch.where(size > limit * most, w * limit * most / size, w)

    def write(self, state: State, c_D: Tensor) -> State:
        options = self.cfg["memory_options"]
        w_in, w_out, base_in, base_out, count = state
        if int(count) % options["inner_batch"] == 0:
            w_in, w_out = self.limited(w_in, self.w["memory.w_in"]), self.limited(w_out, self.w["memory.w_out"])
            base_in, base_out = w_in, w_out
        k, v = self.key_value(c_D)
        eta = options["inner_lr"] * torch.sigmoid(self.gates(c_D))[:, None, None]
        with torch.enable_grad():
            at_in = base_in if base_in.requires_grad else base_in.detach().requires_grad_()
            at_out = base_out if base_out.requires_grad else base_out.detach().requires_grad_()
            loss = -(self.apply(at_in, at_out, k) * v).sum()
            grad_in, grad_out = torch.autograd.grad(loss, (at_in, at_out), create_graph=True)
        return w_in - eta * grad_in, w_out - eta * grad_out, base_in, base_out, count + 1

    def leaves(self, state: State) -> State:
        return state[:2]

    def ask(self, leaves: State, q_HK: Tensor) -> Tensor:
        return self.apply(leaves[0], leaves[1], q_HK)


class Titans(Deep):
    """The MLP of `Deep`, with L = |M(k) - v|^2, momenta S <- eta S - theta grad L, and W <- (1 - alpha) W + S."""

    def init(self) -> State:
        w_in, w_out = self.w["memory.w_in"], self.w["memory.w_out"]
        return *super().init(), torch.zeros_like(w_in), torch.zeros_like(w_out)

    def cut(self, state: State) -> State:
        return *super().cut(state), *state[5:]

    def write(self, state: State, c_D: Tensor) -> State:
        options = self.cfg["memory_options"]
        w_in, w_out, base_in, base_out, count, s_in, s_out = state
        if int(count) % options["inner_batch"] == 0:
            w_in, w_out = self.limited(w_in, self.w["memory.w_in"]), self.limited(w_out, self.w["memory.w_out"])
            base_in, base_out = w_in, w_out
        k, v = self.key_value(c_D)
        alpha, eta, theta = torch.sigmoid(self.gates(c_D)).view(3, self.H, 1, 1)
        with torch.enable_grad():
            at_in = base_in if base_in.requires_grad else base_in.detach().requires_grad_()
            at_out = base_out if base_out.requires_grad else base_out.detach().requires_grad_()
            loss = (self.apply(at_in, at_out, k) - v).square().sum()
            grad_in, grad_out = torch.autograd.grad(loss, (at_in, at_out), create_graph=True)
        s_in = eta * s_in - options["inner_lr"] * theta * grad_in
        s_out = eta * s_out - options["inner_lr"] * theta * grad_out
        return (1 - alpha) * w_in + s_in, (1 - alpha) * w_out + s_out, base_in, base_out, count + 1, s_in, s_out


class Slots(Matrix):
    """Slots [H, m, V]; after each write slot <- gate(base, a), a = sum_j e^s_j v_j / (1 + sum_j e^s_j) over the batch so far.

    State: the slots, those at the batch's start, how many writes since the cut, and the batch's keys and values.
    """

    def init(self) -> State:
        slots, write = self.w["memory.first"], self.w["memory.write.weight"]
        count = torch.zeros((), dtype=torch.long)
        return slots, slots, count, write.new_zeros(0, self.H, self.K), write.new_zeros(0, self.H, self.V)

    def cut(self, state: State) -> State:
        return *state[:2], torch.zeros((), dtype=torch.long), *state[3:]

    def address(self, slots_HMV: Tensor, name: str) -> Tensor:
        """What a slot asks writes with ("seek"), or is found by ("key"): scaled unit vectors [H, m, K]."""
        found = torch.einsum("hmv,hvk->hmk", slots_HMV, self.w[f"memory.{name}"]) + self.w[f"memory.{name}_id"]
        return self.w[f"memory.{name}_scale"].exp()[:, None, None] * l2(found)

    def write(self, state: State, c_D: Tensor) -> State:
        slots, base, count, keys, values = state
        if int(count) % self.cfg["memory_options"]["inner_batch"] == 0:
            base, keys, values = slots, keys[:0], values[:0]
        k, v = self.key_value(c_D)
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
        weights = torch.exp(torch.einsum("hmk,jhk->hmj", self.address(base, "seek"), keys))
        found = torch.einsum("hmj,jhv->hmv", weights, values) / (1 + weights.sum(-1, keepdim=True))
        parts = torch.einsum("hmv,hvw->hmw", found, self.w["memory.gate"])
        parts = parts + self.w["memory.bias"].view(parts.shape)
        if self.cfg["memory_options"]["gate"] == "lstm":
            z, i, f = parts.split(self.V, -1)
            slots = torch.sigmoid(f) * base + torch.sigmoid(i) * torch.tanh(z)
        else:
            z, u = parts.split(self.V, -1)
            slots = (1 - torch.sigmoid(u)) * base + torch.sigmoid(u) * torch.tanh(z)
        return slots, base, count + 1, keys, values

    def leaves(self, state: State) -> State:
        return self.address(state[0], "key").transpose(-1, -2), state[0]

    def ask(self, leaves: State, q_HK: Tensor) -> Tensor:
        shares = torch.softmax(torch.einsum("hk,hkm->hm", q_HK, leaves[0]), dim=-1)
        return torch.einsum("hm,hmv->hv", shares, leaves[1])


MEMORIES: dict[str, type[Matrix]] = {
    "linear": Linear, "gated": Gated, "delta": Delta, "gated_delta": GatedDelta, "gru": Gru, "lstm": Lstm, "min_gru": MinGru,
    "min_lstm": MinLstm, "deep": Deep, "titans": Titans, "swla": Swla, "mlstm": Mlstm, "slstm": Slstm, "slots": Slots,
}  # fmt: skip
