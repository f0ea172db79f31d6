"""transformers' own tests of a model, from its source distribution: an optional group (make mixin).

TRANSFORMERS_SOURCE names the unpacked folder. It lacks the mixins for generation and export, which are replaced by empty ones.
`OTHERWISE` lists every test that fails, with the reason; each other one must pass, or is skipped by transformers itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import unittest
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from siltstone.config.model import LMConfig
from siltstone.hf import SiltstoneConfig, SiltstoneForCausalLM

SOURCE = os.environ.get("TRANSFORMERS_SOURCE", "")
pytestmark = [
    pytest.mark.skipif(not SOURCE, reason="TRANSFORMERS_SOURCE names no source of transformers"),
    pytest.mark.filterwarnings("ignore"),
]
HIDDEN = "hidden states of single layers are not returned"
OTHERWISE = {
    "test_hidden_states_output": HIDDEN,
    "test_model_outputs_equivalence": HIDDEN,
    "test_retain_grad_hidden_states_attentions": HIDDEN,
    "test_model_base_model_prefix": "there is no model without the output layer",
    "test_model_weights_reload_no_missing_tied_weights": "a folder without weights raises CheckpointError; they are not drawn",
    "test_generation_tester_mixin_inheritance": "the source lacks the tests of generation; tests/hf/test_generate.py has ours",
}


@cache
def mixin() -> Any:
    """`ModelTesterMixin`, as the package `tests` of the source, beside which ours has another name."""
    folder = Path(SOURCE) / "tests"
    for name, path in (("theirs", folder), ("theirs.exporters", folder), ("theirs.generation", folder)):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    for name, held in (("exporters.test_export", "ExportTesterMixin"), ("generation.test_utils", "GenerationTesterMixin")):
        sys.modules[f"theirs.{name}"] = made = ModuleType(f"theirs.{name}")
        setattr(made, held, type(held, (), {}))
    return importlib.import_module("theirs.test_modeling_common").ModelTesterMixin


class Small:
    """What the mixin asks: a small configuration and inputs."""

    is_training, batch_size, seq_length = True, 3, 11
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 2, 99

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    def get_config(self) -> SiltstoneConfig:
        keys = dict(vocab_size=self.vocab_size, d_model=32, heads=2, depth=2, pattern="mw", window=4, segment=3, mlp_dim=32)
        return SiltstoneConfig.of(LMConfig.from_dict(keys), pad_token_id=0, bos_token_id=1, eos_token_id=2)

    def prepare_config_and_inputs_for_common(self) -> tuple[SiltstoneConfig, dict[str, Any]]:
        ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@cache
def case() -> Any:
    """A test case with all tests of the mixin."""

    class Case(mixin(), unittest.TestCase):  # type: ignore[misc]
        all_model_classes = (SiltstoneForCausalLM,)
        has_attentions = False

        def setUp(self) -> None:
            self.model_tester = Small(self)

        def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
            """With labels: the mixin knows only classes of transformers itself."""
            found = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            return found | ({"labels": found["input_ids"]} if return_labels else {})

    return Case


NAMES = sorted(name for name in dir(case()) if name.startswith("test_") and callable(getattr(case(), name))) if SOURCE else []


@pytest.mark.parametrize("name", NAMES)
def test_of_transformers(name: str) -> None:
    result = unittest.TestResult()
    case()(name).run(result)
    wrong = result.errors + result.failures
    if name in OTHERWISE:
        assert wrong, f"{name} passes now: take it off the list"
        return
    assert not wrong, wrong[0][1]
    for _, reason in result.skipped:
        raise unittest.SkipTest(reason)
