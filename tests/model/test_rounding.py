"""A norm over a constant map makes rounding a signal: found in the first call, said, and cured as the message says."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense.model import rounding

SIZE = 32
SPEC = {"rgb": f"3 {SIZE} {SIZE}", "thermal": f"1 {SIZE} {SIZE}"}
WIDE = {name: f"{axes}:float64" for name, axes in SPEC.items()}
WORDS = r"thermal\.\d+ \(InstanceNorm2d\) makes rounding as large as a signal \(values up to [\d.]+e\+00, in float64 "
FOLDED = r"the folded network: differs .* The cause is rounding: thermal\.\d+ \(InstanceNorm2d\)"


class Fusion(nn.Module):
    """Encode the second input by six biased convolutions, each with a norm of the row's own statistics."""

    def __init__(self, padding: str = "zeros", blocks: int = 6, norm: Any = nn.InstanceNorm2d, dims: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        layers = [
            layer
            for block in range(blocks)
            for layer in (conv(16 if block else 1, 16, 3, padding=1, padding_mode=padding), norm(16))
        ]
        self.rgb, self.thermal, self.fuse = conv(3, 16, 3), nn.Sequential(*layers), conv(32, 16, 1)
        self.head, self.calls = nn.Linear(16, 4), 0

    def forward(self, rgb: Tensor, thermal: Tensor) -> Tensor:
        self.calls += 1
        a, b = self.rgb(rgb), self.thermal(thermal)
        joined = self.fuse(torch.cat([a, b[(..., *[slice(1, -1)] * (b.dim() - 2))]], 1)).relu()
        return self.head(joined.flatten(2).mean(2))


def batch(rows: int = 8, spec: dict[str, str] = SPEC) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    axes = ss.Modalities(spec)["rgb"].parts["rgb"]
    return {"rgb": torch.randn(rows, *axes.sizes, generator=generator, dtype=torch.float64).to(axes.torch_dtype)}


def adapted(network: nn.Module, spec: Any = SPEC, **options: Any) -> ss.RobustModel:
    robust = ss.adapt(network, spec, **options)
    robust.mark_trained(robust.combinations)
    return robust.eval()


def stirred(robust: ss.RobustModel) -> ss.RobustModel:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return robust


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_six_norms_over_a_constant_map_are_named_once_with_what_becomes_of_rounding() -> None:
    robust = adapted(Fusion())
    with torch.no_grad(), pytest.warns(UserWarning, match=WORDS) as told:
        robust(batch())
    with torch.no_grad(), silent():
        robust(batch())
    said = str(told[0].message)
    assert "where thermal is missing" in said
    assert "fill={'thermal': subsense.Constant(" in said
    assert "from float64's by " in said
    found = robust.execution.rounding.found
    values = [values for _, *values in found.sites.values()]
    assert max(one for one, _ in values) > 1
    assert max(exact for _, exact in values) < 1e-2  # the issue: 4.3 in float32, 1e-5 in float64


def test_what_is_said_is_what_float64_says() -> None:
    """The oracle: the network itself, without subsense."""
    network = Fusion().eval()
    zeros = torch.zeros(1, 1, SIZE, SIZE)
    robust = adapted(copy.deepcopy(network))
    with torch.no_grad():
        single, double = network.thermal(zeros), copy.deepcopy(network).double().thermal(zeros.double())
        with pytest.warns(UserWarning, match=WORDS):
            robust(batch())
    _, found, exact = robust.execution.rounding.found.sites["thermal.11"]
    assert found == pytest.approx(float(single.abs().max()), rel=1e-3)
    assert exact == pytest.approx(float(double.abs().max()), rel=1e-3)


typical = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
CURES = {
    "fill": lambda: adapted(Fusion(), fill={"thermal": ss.Constant(typical)}),
    "reflect": lambda: adapted(Fusion("reflect")),
    "float64": lambda: adapted(Fusion().double(), WIDE),
}
FOR_FOLDS = {
    "fill": lambda: adapted(Fusion(), method="scale", fill={"thermal": ss.Constant(typical)}),
    "reflect": lambda: adapted(Fusion("reflect"), method="scale"),
    "float64": lambda: adapted(Fusion().double(), WIDE, method="scale"),
}


@pytest.mark.parametrize("cure", CURES)
def test_each_cure_cures(cure: str) -> None:
    """No warning, and the same numbers in float64 and in other batches."""
    robust = CURES[cure]()
    given = batch(spec=WIDE if cure == "float64" else SPEC)
    with torch.no_grad(), silent():
        found = robust(given)
        alone = torch.cat([robust({"rgb": row[None]}) for row in given["rgb"]])
        exact = copy.deepcopy(robust.network).double()(**_double(robust.filled(robust.network).fill_in(given)))
    for other in (alone.double(), exact):
        assert float((found - other).abs().max() / other.abs().max()) < 1e-5


def _double(filled: Any) -> dict[str, Tensor]:
    return {name: tensors[0].double() for name, tensors in filled.items()}


@pytest.mark.filterwarnings("ignore:thermal")
def test_a_fold_that_rounding_spoils_says_so() -> None:
    robust = stirred(adapted(Fusion(), method="scale"))
    with pytest.raises(ss.FoldError, match=FOLDED) as told:
        ss.fold(robust, "rgb", example=batch())
    assert "padding_mode='reflect'" in str(told.value)
    assert "drop_absent" not in str(told.value)  # it would be checked against the same


@pytest.mark.parametrize("cure", FOR_FOLDS)
def test_each_cure_of_a_fold_cures(cure: str) -> None:
    given = batch(spec=WIDE if cure == "float64" else SPEC)
    ss.fold(stirred(FOR_FOLDS[cure]()), "rgb", example=given)


VOLUME = {"rgb": "3 8 8 8", "thermal": "1 8 8 8"}


def volumes() -> ss.RobustModel:
    return adapted(Fusion(norm=nn.InstanceNorm3d, dims=3), VOLUME)


@pytest.mark.filterwarnings("ignore:thermal")
def test_without_what_is_absent_predictions_no_longer_change_with_the_batch() -> None:
    robust, given = volumes(), batch(spec=VOLUME)
    dropped = ss.fold(robust, "rgb", example=given, drop_absent=True)
    assert robust.execution.rounding.found.between > 1e-4
    with torch.no_grad():
        together = robust(given)
        apart, each = (torch.cat([run(rgb=row[None]) for row in given["rgb"]]) for run in (robust, dropped))
        again = dropped(**given)
    assert float((together - apart).abs().max() / apart.abs().max()) > 1e-4
    assert float((again - each).abs().max() / each.abs().max()) < 1e-5
    assert float((apart - each).abs().max() / each.abs().max()) < 1e-5


def test_constants_in_float64_become_those_of_a_float32_network() -> None:
    wide = {name: f"{axes}:float64" for name, axes in VOLUME.items()}
    robust = adapted(Fusion(norm=nn.InstanceNorm3d, dims=3).double(), wide)
    given = batch(spec=wide)
    dropped = ss.fold(robust, "rgb", example=given, drop_absent=True)
    with torch.no_grad():
        expected = robust(given)
        found = dropped.float()(rgb=given["rgb"].float())
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("network", "extra"),
    [(Fusion(), 2), (Fusion("reflect"), 2), (Fusion(blocks=1), 0), (Fusion(norm=nn.BatchNorm2d), 0)],
    ids=["rounding", "reflect", "one norm", "statistics of training"],
)
@pytest.mark.filterwarnings("ignore:thermal")
def test_forwards_beyond_the_first_call(network: Fusion, extra: int) -> None:
    """At most two of this network, and one of its copy in float64, in the first call; none in those that follow."""
    robust = adapted(network)
    with torch.no_grad():
        for expected in (1 + extra, 1, 1):
            network.calls = 0
            robust(batch())
            assert network.calls == expected
        network.calls = 0
        robust(batch() | {"thermal": torch.randn(8, 1, SIZE, SIZE)})
        assert network.calls == 1


def test_a_mixed_batch_finds_the_row_that_lacks_it() -> None:
    robust = adapted(Fusion(), untrained="pretrained")
    inputs = batch() | {"thermal": torch.randn(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))}
    present = torch.tensor([[True, True], [False, True]] * 3 + [[True, True], [True, False]])
    with torch.no_grad(), pytest.warns(UserWarning, match=r"where thermal is missing"):
        robust(inputs, present)


@pytest.mark.filterwarnings("ignore:the first gradients explode")
def test_training_is_told_too() -> None:
    robust = ss.adapt(Fusion(), SPEC)
    target = torch.zeros(8, dtype=torch.int64)
    with pytest.warns(UserWarning, match=WORDS):
        ss.train(robust, [(batch(), target)], loss=nn.functional.cross_entropy, combinations="rgb", epochs=1,
                 progress=False, safe=False)  # fmt: skip


def test_nothing_is_left_on_norms_and_copies_have_a_look_of_their_own() -> None:
    robust = adapted(Fusion())
    other = copy.deepcopy(robust)
    for one in (robust, other):
        with torch.no_grad(), pytest.warns(UserWarning, match=WORDS):
            one(batch())
    assert not any(module._forward_pre_hooks for module in robust.network.modules())
    assert set(robust.execution.rounding.norms) == {f"thermal.{index}" for index in range(1, 12, 2)}


def test_where_float64_cannot_run_batches_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MOST", 0)
    monkeypatch.setattr(rounding, "OUTPUT_OFF", 1e-5)
    robust = volumes()
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match=r"^thermal\.\d+ \(InstanceNorm3d\) makes .* signal, and so") as told,
    ):
        robust(batch(spec=VOLUME))
    assert "float64's" not in str(told[0].message)


class Casting(Fusion):
    def forward(self, rgb: Tensor, thermal: Tensor) -> Tensor:
        return super().forward(rgb.float(), thermal.float())


def test_a_network_of_one_precision_is_compared_by_batches_alone() -> None:
    robust = adapted(Casting())
    with torch.no_grad(), silent():  # in two dimensions this machine's batches agree
        robust(batch())
    assert robust.execution.rounding.found is None


@pytest.mark.slow
def test_monais_basic_unet_on_a_volume_that_is_not_there() -> None:
    """The issue: 0.19 between batches; by machine."""
    nets = pytest.importorskip("monai.networks.nets", reason="needs the extra subsense[monai]")

    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.t1 = nets.BasicUNet(3, 1, 2, features=(16, 16, 32, 64, 128, 16))
            self.flair = nn.Conv3d(1, 2, 1)

        def forward(self, t1: Tensor, flair: Tensor) -> Tensor:
            return self.t1(t1) + self.flair(flair)

    robust = adapted(Sequences(), {"t1": "1 32 32 32", "flair": "1 32 32 32"})
    with torch.no_grad(), pytest.warns(UserWarning, match=r"InstanceNorm3d\) makes .*where t1 is missing"):
        robust({"flair": torch.randn(2, 1, 32, 32, 32)})
    assert robust.execution.rounding.found.precise > 0.1
