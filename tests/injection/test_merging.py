"""A convolution and the BatchNorm behind it are one site for what scales and shifts channels; nothing is lost by it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import draw, only, with_sets
from subsense.injection.banks import start_banks
from subsense.injection.planning import plan
from subsense.model.adapt import inject

MODALITIES = {"left": "3 T", "right": "3 T"}


class Pair(nn.Module):
    """(batch, 3, T) twice -> (batch, 2): a convolution and a BatchNorm in an `nn.Sequential`, then a head."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(conv or nn.Conv1d(6, 4, 3), norm or nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                tensor.data.add_(torch.rand_like(tensor), alpha=0.3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.stem(torch.cat([left, right], 1)).mean(-1))


def sites_of(network: nn.Module, method: Any = "ssf", **options: Any) -> list[str]:
    return [site.key for site in plan(network, method, **options).sites]


def test_the_convolution_is_left_out_and_the_plan_says_so() -> None:
    planned = plan(Pair(), "ssf")
    assert [site.key for site in planned.sites] == ["stem.1", "head"]
    assert planned.merged == ("stem.0",)
    assert "scaled and shifted at the BatchNorm behind them, which is the same: stem.0" in str(planned)
    assert "every parameter of the network is within reach" in str(planned)


def test_every_output_with_both_is_reached_with_the_norm_alone() -> None:
    """Any scale and shift before the norm, as numpy's float64 says, is a scale and shift behind it."""
    net = Pair().double().eval()
    spec = {name: f"{axes}:float64" for name, axes in MODALITIES.items()}
    both = plan(net, "ssf", merge=False)
    robust = ss.adapt(net, spec, sharing="additive")
    banks = {f"{site.key}:ssf:{name}": torch.randn(2, *shape, dtype=torch.float64)
             for site in both.sites for shapes in site.adapters.values() for name, shape in shapes.items()}  # fmt: skip
    net = robust.detach()
    old = inject(net, both, banks, robust.fill, robust.router, robust.call)
    old.mark_trained("all")
    inputs = only({name: one.double() for name, one in draw(MODALITIES, T=9).items()}, ["left"])
    expected = old(inputs).detach()
    row = {name: bank[1].numpy() for name, bank in banks.items()}
    old.detach()
    new = ss.adapt(net, spec, sharing="additive")
    own = new.adapter_parameters()
    norm = {name: one.detach().numpy() for name, one in net.stem[1].state_dict().items()}
    slope = norm["weight"] / np.sqrt(norm["running_var"] + net.stem[1].eps)
    before, beta = 1 + row["stem.0:ssf:scale"], row["stem.0:ssf:shift"]
    gamma = 1 + row["stem.1:ssf:scale"]
    # gamma (slope (s u + t - mean) + bias) + shift, in the norm's own output slope (u - mean) + bias
    offset = slope * (beta + (before - 1) * norm["running_mean"]) + (1 - before) * norm["bias"]
    with torch.no_grad():
        own["head:ssf:scale"][1], own["head:ssf:shift"][1] = banks["head:ssf:scale"][1], banks["head:ssf:shift"][1]
        own["stem.1:ssf:scale"][1] = torch.from_numpy(gamma * before - 1)
        own["stem.1:ssf:shift"][1] = torch.from_numpy(gamma * offset + row["stem.1:ssf:shift"])
    new.mark_trained("all")
    torch.testing.assert_close(new(inputs).detach(), expected)


@pytest.mark.parametrize(("method", "at_conv"), [
    ("ssf", []), ("shift", []), ("bitfit", []), ("scale", ["scale"]), ("lora", ["lora"]), (["ssf", "lora"], ["lora"]),
    (ss.Common(ss.SSF()), []), (["norm", "shift"], []), (["shift", ss.Common(ss.SSF(), ["stem.0"])], ["common"]),
], ids=str)  # fmt: skip
def test_only_what_adds_nothing_there_is_left_out(method: Any, at_conv: list[str]) -> None:
    found = {site.key: [adapter.name for adapter in site.adapters] for site in plan(Pair(), method).sites}
    assert found.get("stem.0", []) == at_conv


class Refined(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def hooked() -> Pair:
    net = Pair()
    net.stem[0].register_forward_hook(lambda module, args, output: torch.relu(output))
    return net


def reordered() -> Pair:
    net = Pair()

    class Twisted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](torch.relu(self[0](x)))

    net.stem = Twisted(*net.stem)
    return net


def used_twice() -> Pair:
    net = Pair()
    net.again = nn.Sequential(net.stem[0], nn.ReLU())
    return net


@pytest.mark.parametrize("make", [
    hooked, reordered, used_twice,
    lambda: Pair(norm=nn.BatchNorm1d(4, track_running_stats=False)),
    lambda: Pair(norm=nn.InstanceNorm1d(4, affine=True)),
    lambda: Pair(norm=nn.GroupNorm(2, 4)),
], ids=["hook between", "another order", "used twice", "batch statistics", "InstanceNorm", "GroupNorm"])  # fmt: skip
def test_what_is_no_such_pair_keeps_both(make: Callable[[], Pair]) -> None:
    assert {"stem.0", "stem.1"} <= set(sites_of(make()))


def test_where_the_norm_is_no_site_the_convolution_is() -> None:
    assert sites_of(Pair(), exclude=["stem.1"]) == ["stem.0", "head"]
    assert sites_of(Pair(), include=["stem.0"]) == ["stem.0"]


def manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data


@pytest.mark.parametrize("method", ["ssf", ["ssf", "lora"]], ids=str)
def test_saved_and_loaded_it_stays_merged(method: Any, tmp_path: Path) -> None:
    robust, inputs = with_sets(ss.adapt(Pair(), MODALITIES, method=method)), only(draw(MODALITIES, T=9), ["left"])
    expected = robust(inputs)
    ss.save(robust, tmp_path)
    assert manifest(tmp_path)["format"] == 2
    loaded = ss.load(tmp_path, robust.detach())
    assert (loaded.plan.merged, loaded.plan.out_of_reach) == (robust.plan.merged, robust.plan.out_of_reach)
    assert str(loaded.plan) == str(robust.plan)
    assert loaded.adapter_parameters().keys() == robust.adapter_parameters().keys()
    assert torch.equal(loaded(inputs), expected)


def test_sets_with_both_as_versions_before_made_them_load_and_stay_so(tmp_path: Path) -> None:
    net, inputs = Pair(), only(draw(MODALITIES, T=9), ["left"])
    robust = ss.adapt(net, MODALITIES, method=["ssf", "lora"])
    both = plan(robust.detach(), ["ssf", "lora"], merge=False)
    banks = start_banks(both, 2, net, torch.Generator())
    old = with_sets(inject(net, both, banks, robust.fill, robust.router, robust.call))
    expected = old(inputs)
    ss.save(old, tmp_path)
    assert manifest(tmp_path)["format"] == 1
    assert "merged" not in manifest(tmp_path)
    loaded = ss.load(tmp_path, old.detach())
    assert [adapter.name for adapter in loaded.plan.sites[0].adapters] == ["ssf", "lora"]
    assert torch.equal(loaded(inputs), expected)
