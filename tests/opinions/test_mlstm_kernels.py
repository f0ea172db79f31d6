"""`mlstm_kernels` (its native torch forms) against mlstm.

Not in the extra `opinions`: its licence, the NXAI Community License, has terms for commercial use that everyone must accept for
themselves. `pip install mlstm-kernels` and these tests run too.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from siltstone.config import registry

from .common import FLOAT64, agree, layer, package, stream

recurrent = package("mlstm_kernels.torch.recurrent.native_sequence")
parallel = package("mlstm_kernels.torch.parallel.native.fw")


@pytest.mark.parametrize("rule", [name for name in ("mlstm",) if name in registry.members("memory")])
@pytest.mark.parametrize("form", ["recurrent", "parallel"])
def test_the_mlstm_is_that_of_its_authors(rule: str, form: str) -> None:
    made = layer(rule)
    memory = made.mix.memory

    def other(x: Tensor) -> Tensor:
        heads = memory.heads
        k, v = memory.write(x).split([heads * memory.key_dim, heads * memory.val_dim], -1)
        q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (memory.query(x), k, v))
        forget, enter = memory.gates(x).transpose(1, 2).chunk(2, 1)
        if form == "parallel":
            y = parallel.mlstm_parallel_fw(q, k, v, enter, forget, eps=0.0)[0]
        else:
            y = recurrent.mlstm_recurrent_sequence__native_fw(q, k, v, enter, forget, eps=0.0, dtype_state=torch.float64)
        return y.transpose(1, 2).flatten(2)

    agree(made, other, stream(70), FLOAT64, [1, 33, 64])
