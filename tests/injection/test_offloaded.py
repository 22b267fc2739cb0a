"""Networks whose weights accelerate brings when they are needed: adapted before, served; the rest is said."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from torch import nn

import subsense as ss
from networks import TOWERS, Towers, draw, only, with_sets


def all_of_it(network: nn.Module, folder: Path) -> None:
    cpu_offload(network, execution_device=torch.device("cpu"))
    assert all(one.is_meta for one in network.parameters())


def parts_to_disk(network: nn.Module, folder: Path) -> None:
    places = {"left": "cpu", "right": "disk", "norm": "cpu", "head": "disk"}
    dispatch_model(network, places, main_device="cpu", offload_dir=folder)
    assert [one.is_meta for one in network.parameters()] == [False, False, True, False, False, True, True]


@pytest.mark.parametrize("offload", [all_of_it, parts_to_disk])
def test_offloaded_after_adapting_it_gives_the_same_and_folds_once_it_is_back(
    offload: Callable[[nn.Module, Path], None], tmp_path: Path
) -> None:
    whole = with_sets(ss.adapt(Towers(), TOWERS, method=["ssf", "lora"]))
    robust = copy.deepcopy(whole)
    offload(robust.network, tmp_path)
    inputs, present = draw(TOWERS), torch.eye(2).bool().repeat(2, 1)
    for model in (robust, whole):
        model.train()(inputs, present).square().sum().backward()
    for one, other in zip(robust.banks.parameters(), whole.banks.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    left = only(inputs, ["left"])
    with torch.no_grad():
        assert torch.equal(robust.eval()(left), whole.eval()(left))
        with pytest.raises(ss.FoldError, match=r"offloaded by accelerate; .*remove_hook_from_module"):
            ss.fold(robust, "left")
        remove_hook_from_module(robust.network, recurse=True)
        args, kwargs = ss.prepare(robust, left)
        torch.testing.assert_close(ss.fold(robust, "left")(*args, **kwargs), robust(left))


def test_offloaded_before_it_is_refused_with_the_way_out() -> None:
    network = cpu_offload(Towers(), execution_device=torch.device("cpu"))
    with pytest.raises(ss.PlanError, match=r"offloaded by accelerate, .*cpu_offload\(model.network\)"):
        ss.adapt(network, TOWERS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_have_adapters_of_thirty_two(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    axes = {"left": f"4:{str(dtype)[6:]}", "right": f"4:{str(dtype)[6:]}"}

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.body(left + 2 * right)))

    robust = with_sets(ss.adapt(Sum().to(dtype), axes, method=["ssf", "lora"]))
    x = {name: torch.randn(4, 4).to(dtype) for name in axes}
    output = robust.train()(x, torch.eye(2).bool().repeat(2, 1))
    output.float().square().sum().backward()
    assert output.dtype == dtype
    assert all(one.dtype == torch.float32 and one.grad.isfinite().all() for one in robust.banks.parameters())
    with torch.no_grad():
        given = {"left": x["left"]}
        args, kwargs = ss.prepare(robust.eval(), given)
        torch.testing.assert_close(ss.fold(robust, "left")(*args, **kwargs), robust(given), atol=0.05, rtol=0.05)
