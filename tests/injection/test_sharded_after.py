"""A network that is split between processes after `adapt` is refused at the next call."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import subsense as ss
from networks import TOWERS, Towers, draw, only, with_sets


@pytest.fixture
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    ours = not torch.distributed.is_initialized()
    if ours:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    if ours:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("part", ["network", "network.head", "banks"])
@pytest.mark.parametrize("missing", [["left"], ["left", "right"]])
def test_sharded_after_adapting(part: str, missing: list[str], mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    robust = with_sets(ss.adapt(Towers(), TOWERS))
    inputs = only(draw(TOWERS), missing)
    robust(inputs)
    fully_shard(robust.get_submodule(part), mesh=mesh)
    with pytest.raises(ss.PlanError, match=rf"{part} .*split between processes after `adapt`.*Adapt the network whole"):
        robust(inputs)
