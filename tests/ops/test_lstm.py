"""The equation of ops/lstm.py."""

from __future__ import annotations

from torch import nn

from siltstone.ops import lstm

from .rule import VALUE, laws, network_rule

TestLaws = laws(network_rule(lstm, nn.LSTM, lambda rand: (rand(VALUE), rand(VALUE))))
