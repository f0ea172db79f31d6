"""Update rules whose state is a vector a head: recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .rule import Matrix, State, rms


class Gru(Matrix):
    """h [H, V] <- (1 - z) n + z h, on RMS-normalised input; read o = h."""

    def init(self) -> State:
        return (self.w["memory.norm.weight"].new_zeros(self.H, self.V),)

    def write(self, state: State, c_D: Tensor) -> State:
        w, size = self.w, self.H * self.V
        h = state[0].reshape(size)
        inside = w["memory.gru.weight_ih_l0"] @ rms(c_D, w["memory.norm.weight"], 1e-6) + w["memory.gru.bias_ih_l0"]
        around = w["memory.gru.weight_hh_l0"] @ h + w["memory.gru.bias_hh_l0"]
        r = torch.sigmoid(inside[:size] + around[:size])
        z = torch.sigmoid(inside[size : 2 * size] + around[size : 2 * size])
        n = torch.tanh(inside[2 * size :] + r * around[2 * size :])
        return (((1 - z) * n + z * h).view(self.H, self.V),)

    def read(self, leaves: State, x_D: Tensor) -> Tensor:
        return leaves[0]


class Lstm(Gru):
    """s <- f s + i g, h <- o tanh(s), on RMS-normalised input; read h."""

    def init(self) -> State:
        zero = self.w["memory.norm.weight"].new_zeros(self.H, self.V)
        return zero, zero

    def write(self, state: State, c_D: Tensor) -> State:
        w, size = self.w, self.H * self.V
        h, s = (x.reshape(size) for x in state)
        c = rms(c_D, w["memory.norm.weight"], 1e-6)
        total = w["memory.lstm.weight_ih_l0"] @ c + w["memory.lstm.bias_ih_l0"]
        total = total + w["memory.lstm.weight_hh_l0"] @ h + w["memory.lstm.bias_hh_l0"]
        i, f, g, o = total.split(size)
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(g)
        return (torch.sigmoid(o) * torch.tanh(s)).view(self.H, self.V), s.view(self.H, self.V)

    def leaves(self, state: State) -> State:
        return state[:1]


class Slstm(Gru):
    """c <- f c + i z, n <- f n + i, h <- o c / n with i = exp(.), scaled by e^-m; gates see the token and the head's own h."""

    def init(self) -> State:
        zero = self.w["memory.norm.weight"].new_zeros(self.H, self.V)
        return zero, zero, zero, torch.full_like(zero, -torch.inf)

    def write(self, state: State, c_D: Tensor) -> State:
        h, c, n, m = state
        inside = self.w["memory.write.weight"] @ rms(c_D, self.w["memory.norm.weight"], 1e-6) + self.w["memory.write.bias"]
        around = torch.einsum("hu,hugv->ghv", h, self.w["memory.recurrent"].view(self.H, self.V, 4, self.V))
        z, i, f, o = inside.view(4, self.H, self.V) + around
        top = torch.maximum(logsigmoid(f) + m, i)
        enter, keep = torch.exp(i - top), torch.exp(logsigmoid(f) + m - top)
        c, n = keep * c + enter * torch.tanh(z), keep * n + enter
        return torch.sigmoid(o) * c / n, c, n, top

    def leaves(self, state: State) -> State:
        return state[:1]


class MinGru(Matrix):
    """h <- (1 - z) h + z (W_h c); read h."""

    def init(self) -> State:
        return (self.w["memory.write.weight"].new_zeros(self.H, self.V),)

    def parts(self, c_D: Tensor) -> Tensor:
        return (self.w["memory.write.weight"] @ c_D + self.w["memory.write.bias"]).view(-1, self.H, self.V)

    def write(self, state: State, c_D: Tensor) -> State:
        z, candidate = self.parts(c_D)
        return ((1 - torch.sigmoid(z)) * state[0] + torch.sigmoid(z) * candidate,)

    def read(self, leaves: State, x_D: Tensor) -> Tensor:
        return leaves[0]


class MinLstm(MinGru):
    """h <- (f h + i (W_h c)) / (f + i); read h."""

    def write(self, state: State, c_D: Tensor) -> State:
        forget, enter, candidate = self.parts(c_D)
        f, i = torch.sigmoid(forget), torch.sigmoid(enter)
        return ((f * state[0] + i * candidate) / (f + i),)
