"""The equation of ops/gru.py."""

from __future__ import annotations

from torch import nn

from siltstone.ops import gru

from .rule import VALUE, laws, network_rule

TestLaws = laws(network_rule(gru, nn.GRU, lambda rand: rand(VALUE)))
