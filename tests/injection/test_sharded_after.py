"""Networks that are split between processes: by `fully_shard` served, before and after `adapt`; otherwise refused."""

from collections.abc import Iterator
from pathlib import Path
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


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", ["", "head"])
def test_a_split_network_gives_the_same_folds_and_is_saved(when: str, part: str, mesh: Any, tmp_path: Path) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard

    def split(network: torch.nn.Module) -> None:
        fully_shard(network.get_submodule(part), mesh=mesh)

    torch.manual_seed(0)
    whole, network = with_sets(ss.adapt(Towers(), TOWERS)), Towers()
    network.load_state_dict(whole.network.state_dict())
    if when == "before":
        split(network)
    robust = ss.adapt(network, TOWERS)
    if when == "after":
        split(robust.network)
    robust.load_adapter_state_dict(whole.adapter_state_dict())
    inputs = draw(TOWERS)
    present = torch.eye(2).bool()[torch.arange(len(inputs["left"])) % 2]
    with torch.no_grad():
        torch.testing.assert_close(robust.eval()(inputs, present), whole.eval()(inputs, present))
        torch.testing.assert_close(robust(inputs), whole(inputs))
        left = only(inputs, ["left"])
        args, kwargs = ss.prepare(whole, left)
        folded = ss.fold(robust, "left")
        torch.testing.assert_close(folded(*args, **kwargs), whole(left))
    assert not any(isinstance(module, FSDPModule) for module in folded.modules())
    assert type(folded) is Towers
    assert robust.network_fingerprint() == whole.network_fingerprint()
    ss.save(robust, tmp_path)
    loaded = ss.load(tmp_path, whole.detach())
    with torch.no_grad():
        torch.testing.assert_close(loaded(left), robust(left))
    robust.detach()


def test_split_adapters_are_refused(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    robust = with_sets(ss.adapt(Towers(), TOWERS))
    fully_shard(robust.banks, mesh=mesh)
    with pytest.raises(ss.PlanError, match=r"banks .*the adapters were split, too"):
        robust(draw(TOWERS))


@pytest.mark.parametrize("when", ["before", "after"])
def test_tensor_parallelism_is_refused_with_the_reason(when: str, mesh: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    network = Towers()
    robust = ss.adapt(network, TOWERS) if when == "after" else None
    parallelize_module(network, mesh, {"head": ColwiseParallel()})
    with pytest.raises(ss.PlanError, match=r"head \(Linear\): its weights are split by tensor parallelism"):
        ss.adapt(network, TOWERS) if robust is None else robust(draw(TOWERS))


def test_what_needs_groups_is_refused_in_a_split_network(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.GRU(4, 3, batch_first=True)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.body(left + right)[0]

    axes = {"left": "5 4", "right": "5 4"}
    robust = ss.adapt(fully_shard(Recurrent(), mesh=mesh), axes, untrained="pretrained")
    with pytest.raises(ss.InputError, match="must run in groups, but the network is split between processes"):
        robust(draw(axes, rows=2), torch.eye(2).bool())
