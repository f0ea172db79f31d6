"""Every parameter has a gradient after every backward pass, so that plain data-parallel training works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st

from .models import BASE, EVERY, IDS, model, some_ids

ROOT = Path(__file__).parents[2]


def without_gradient(module: torch.nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is None]


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_every_parameter_has_a_gradient(keys: dict[str, Any]) -> None:
    """Rows of one token, shorter than the window, without a sealed segment, that go on from a state, and of padding alone."""
    lm, ids = model(keys), some_ids()
    _, later = lm(ids)
    later = later.detach()
    for part, state in ((ids[:, :1], None), (ids[:, :3], None), (ids, None), (ids[:, :1], later), (ids[:, :4], later)):
        lm.zero_grad()
        lm(part, state)[0].square().sum().backward()
        assert not without_gradient(lm)
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in lm.parameters())
    for mask in (torch.zeros_like(ids, dtype=torch.bool), ids == 3):
        lm.zero_grad()
        lm(ids, mask=mask)[0].square().sum().backward()
        assert not without_gradient(lm)


@pytest.mark.parametrize("name", st.presets.names()[:3])
def test_every_parameter_of_a_preset_has_a_gradient(name: str) -> None:
    lm = st.LM(st.presets.get(name, 64, depth=2))
    lm(torch.randint(0, 64, (1, 5)))[0].sum().backward()
    assert not without_gradient(lm)
    layer = st.MemoryCaching(8, heads=2, gate="sigmoid")
    for mask in (None, torch.zeros(1, 3, dtype=torch.bool)):
        layer.zero_grad()
        layer(torch.randn(1, 3, 8), mask=mask)[0].sum().backward()
        assert not without_gradient(layer)


def test_the_zeros_are_tensors_of_their_own_and_frozen_parameters_have_none() -> None:
    lm = model({})
    y, _ = lm(some_ids(tokens=2))
    grads = torch.autograd.grad(y.sum(), list(lm.parameters()))
    for grad, p in zip(grads, lm.parameters(), strict=True):
        assert grad.shape == p.shape and not grad.add_(1.0).isnan().any()
    for p in lm.parameters():
        p.requires_grad_(False)
    lm.embed.weight.requires_grad_()
    lm(some_ids(tokens=2))[0].sum().backward()
    assert without_gradient(lm) == [name for name, _ in lm.named_parameters() if name != "embed.weight"]


WORKER = """
import os, sys, torch, torch.distributed as dist
import siltstone as st
from torch.nn.parallel import DistributedDataParallel
rank, world, store, keys = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
alone = [dist.new_group([r]) for r in range(world)][rank]
for group in (alone, dist.group.WORLD):
    torch.manual_seed(0)
    lm = st.LM(st.LMConfig.from_dict(keys))
    both = DistributedDataParallel(lm, process_group=group)
    step = torch.optim.AdamW(both.parameters(), lr=0.01)
    generator, state = torch.Generator().manual_seed(rank), None
    for tokens in (2 if rank else 3, 9, 3):  # processes of which one sees a memory and another does not
        ids = torch.randint(0, 23, (2, tokens), generator=generator)
        y, state = both(ids, state)
        state = state.detach()
        y.float().log_softmax(-1)[:, :, 0].mean().neg().backward()
        step.step()
        step.zero_grad()
    total = torch.stack([p.detach().double().abs().sum() for p in lm.parameters()]).sum()
    every = [torch.zeros_like(total) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, total, group=group)
    assert all(torch.equal(x, total) for x in every) and total.isfinite()
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # the interpreter's own ending races with gloo's threads on a busy machine: SIGABRT
"""


def test_plain_data_parallel_training_works(tmp_path: Path) -> None:
    """In one process, and in two."""
    keys, world = BASE | {"depth": 2, "pattern": "mw", "gate": "sigmoid"}, 2
    command = [sys.executable, "-W", "error", "-c", WORKER]
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "store"), repr(keys)], env=environment, stderr=-1)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=60)[1].decode() for process in running]  # both end before either is judged
    assert [process.returncode for process in running] == [0] * world, errors
