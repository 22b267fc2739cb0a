"""Every fast way to compute gamma y + beta gives the same numbers and gradients as plain operations."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import NETWORKS, draw, make, with_sets
from subsense import RobustModel
from subsense.adapters.affine import Recall, affine
from subsense.adapters.sums import sums

SHAPES = {
    "tokens": ((4, 7, 6), (6,)),
    "tokens, per row": ((4, 7, 6), (4, 1, 6)),
    "maps": ((2, 6, 5, 4), (6, 1, 1)),
    "maps, per row": ((2, 6, 5, 4), (2, 6, 1, 1)),
}
GAMMAS = {"near one": (1.0, 0.3), "some negative": (0.0, 2.0), "near zero": (0.0, 1e-9), "zero": (0.0, 0.0)}


def _norm(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


@pytest.fixture(params=SHAPES)
def tensors(request: Any) -> dict[str, Any]:
    shape, features = SHAPES[request.param]
    generator = torch.Generator().manual_seed(0)
    draws = {"x": shape, "grad": shape, "scale": features, "shift": features}
    return {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in draws.items()}


def gradients(run: Callable[..., Tensor], tensors: dict[str, Any], mean: float, spread: float, shift: bool) -> Any:
    x = tensors["x"].clone().requires_grad_()
    gamma = (mean + spread * tensors["scale"]).requires_grad_()
    beta = tensors["shift"].clone().requires_grad_() if shift else None
    output = run(x, gamma, beta)
    asked = [x, gamma, beta] if beta is not None else [x, gamma]
    return output.detach(), *torch.autograd.grad(output, asked, tensors["grad"])


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize(("mean", "spread"), GAMMAS.values(), ids=GAMMAS)
@pytest.mark.parametrize("way", ["output", "copy", "layer"])
def test_gradients_agree_with_plain_operations(
    way: str, mean: float, spread: float, shift: bool, tensors: dict[str, Any]
) -> None:
    recall = Recall(layer=_norm, spare=True) if way == "layer" else Recall(steady=way == "output", spare=True)

    def fast(x: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
        return affine(x, _norm(x), gamma, beta, recall)

    def plain(x: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
        return _norm(x) * gamma + (0 if beta is None else beta)

    found, expected = (gradients(run, tensors, mean, spread, shift) for run in (fast, plain))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


LAYOUTS = {
    "tokens": ((4, 300, 24), (24,), None),
    "tokens, per row": ((2, 600, 512), (2, 1, 512), None),
    "tokens, few": ((2, 3, 4), (4,), None),
    "maps": ((2, 24, 32, 32), (24, 1, 1), None),
    "maps, per row": ((2, 24, 32, 32), (2, 24, 1, 1), None),
    "maps, channels last": ((2, 24, 32, 32), (24, 1, 1), torch.channels_last),
    "maps, channels last, per row": ((2, 24, 32, 32), (2, 24, 1, 1), torch.channels_last),
    "large maps, channels last, per row": ((2, 64, 64, 80), (2, 64, 1, 1), torch.channels_last),
    "norm over three axes": ((64, 8, 8, 8), (8, 8, 8), None),
    "one channel": ((2, 1, 100, 100), (1, 1, 1), None),
}


@pytest.mark.parametrize(("shape", "features", "layout"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("same", [True, False])
def test_both_sums_in_one_pass(shape: Any, features: Any, layout: Any, same: bool) -> None:
    grad, y = torch.randn(2, *shape, dtype=torch.float64)
    if layout is not None:
        y = y.contiguous(memory_format=layout)
        grad = grad.contiguous(memory_format=layout) if same else grad
    with torch.no_grad():
        total, plain = sums(grad, y, features)
    torch.testing.assert_close(total, (grad * y).sum_to_size(features), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plain, grad.sum_to_size(features), rtol=1e-10, atol=1e-10)


def test_both_sums_have_gradients() -> None:
    grad, y = torch.randn(2, 400, 64, dtype=torch.float64).requires_grad_().unbind()
    total, plain = sums(grad, y, (64,))
    found = torch.autograd.grad((total + plain).sum(), (grad, y))
    assert torch.equal(found[0], y + 1)
    assert torch.equal(found[1], grad)


@pytest.mark.parametrize("recall", [Recall(True), Recall(), Recall(layer=_norm)], ids=["output", "copy", "layer"])
def test_gradients_have_gradients(recall: Recall, tensors: dict[str, Any]) -> None:
    inputs = tensors["x"].requires_grad_(), (2 + tensors["scale"].tanh()).requires_grad_(), tensors["shift"]

    def run(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return affine(x, _norm(x), gamma, beta, recall)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_transforms_of_functions_go_through() -> None:
    x, gamma, beta = (torch.rand(3, 4, dtype=torch.float64) for _ in range(3))
    run = partial(affine, recall=Recall(steady=True, spare=True))
    found = torch.func.jacrev(lambda g: run(x, x.clone(), g, beta))(gamma)
    assert torch.allclose(found, torch.diag(x.flatten()).view(found.shape))
    _, tangent = torch.func.jvp(lambda g: run(x, x.clone(), g, beta), (gamma,), (torch.ones_like(gamma),))
    assert torch.equal(tangent, x)


class InPlace(nn.Module):
    """Work in place after a convolution, a norm and a linear layer, the last one's output being the network's."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.act, self.hidden, self.head = nn.ReLU(inplace), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = self.act(self.norm(self.act(self.conv(torch.cat([left, right], 1)))))
        return self.head(self.act(self.hidden(x.mean((2, 3)))))


MAPS = {"left": "1 6 6", "right": "1 6 6"}


def in_place(inplace: bool) -> RobustModel:
    torch.manual_seed(0)
    return with_sets(ss.adapt(InPlace(inplace).double(), dict.fromkeys(MAPS, "1 6 6:float64"))).train()


def model_gradients(
    robust: RobustModel, batch: Any, present: Tensor | None = None, square: bool = False
) -> list[Tensor]:
    output = robust(batch, present)
    scores = output.sigmoid_() if square else output  # in place, on what the network handed out
    scores.square().sum().backward()
    parameters = robust.adapter_parameters().values()
    found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    robust.zero_grad()
    return found


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        (one - other).abs().max() <= 1e-6 * other.abs().max() for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("mixed", [True, False])
def test_layers_that_work_in_place_are_respected(mixed: bool) -> None:
    batch = {name: tensor.double() for name, tensor in draw(MAPS).items()}
    robust, reference = in_place(True), in_place(False)
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]]) if mixed else None
    given = batch if mixed else {"left": batch["left"]}
    for _ in range(3):
        assert close(model_gradients(robust, given, present, True), model_gradients(reference, given, present, True))
    states = {site.key: robust.injection.saved.state(site.key) for site in robust.plan.sites}
    norm = "restless" if mixed else "unknown"  # where rows are alike it takes its pair in, and nothing of it is kept
    assert states == {"conv": "restless", "norm": norm, "hidden": "restless", "head": "restless"}


def test_a_layer_that_begins_to_work_in_place_is_noticed() -> None:
    batch = {"left": draw(MAPS)["left"].double()}
    robust, reference = in_place(False), in_place(False)
    for turn in range(4):
        robust.network.act.inplace = turn == 2
        assert close(model_gradients(robust, batch), model_gradients(reference, batch))
    assert robust.injection.saved.state("hidden") == "restless"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_forward_gives_the_same_bits(name: str) -> None:
    network, options = make(name)
    robust = with_sets(ss.adapt(network, **options))
    batch = draw(options["modalities"])
    present = torch.stack([robust.modalities.present(robust.combinations[row % 2]) for row in range(4)])
    for mask in (present, present[[0, 0, 0, 0]]):
        with torch.no_grad():
            expected = robust(batch, mask)
        for mode in (True, True, True, False):
            assert torch.equal(robust.train(mode)(batch, mask), expected)


@pytest.mark.parametrize("prepend", [True, False])
def test_what_another_hook_saw_stays(prepend: bool) -> None:
    network, options = make("towers")
    robust = with_sets(ss.adapt(network, **options))
    batch, seen = {"left": draw(options["modalities"])["left"]}, []
    network.left.register_forward_hook(lambda module, args, y: seen.append((y, y.clone())), prepend=prepend)
    with torch.no_grad():
        robust(batch)
    robust.train()(batch)
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)
    assert len(seen) == 2


@contextmanager
def keeping() -> Iterator[list[Tensor]]:
    """Gather what autograd keeps; a forward before has taught which outputs stay as they are."""
    found: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        found.append(tensor.detach())
        return found[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


class Deep(nn.Module):
    """Norm, linear, GELU, twice: all that SSF needs is kept anyway."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(2)]
        self.first, self.blocks, self.head = nn.Linear(16, 16), nn.Sequential(*blocks), nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.blocks(self.first(left) + right))


def test_nothing_is_kept_twice() -> None:
    robust = with_sets(ss.adapt(Deep(), {"left": "64 16", "right": "64 16"}, exclude=["head"])).train()
    batch = {"left": torch.randn(8, 64, 16)}
    robust(batch)
    with keeping() as kept:
        output = robust(batch)
    large = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.numel() == 8 * 64 * 16}
    assert len(large) == 5  # first's output, the norms' inputs (a block's own and GELU's output), and GELU's inputs
    output.sum().backward()


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm, no pair": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm, no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm([4, 4, 4]),
    "rms norm": lambda: nn.RMSNorm(4),
}
NOTHING_TO_TRAIN = ("batch norm, no pair", "norm")
TRAINED = [pair for pair in product(NORMS, ("ssf", "scale", "norm")) if pair != NOTHING_TO_TRAIN]


@pytest.mark.parametrize(("norm", "method"), TRAINED)
def test_a_norm_with_the_adapters_pair_gives_what_plain_operations_give(norm: str, method: str) -> None:
    network = InPlace(inplace=False)
    network.norm = NORMS[norm]()
    spec = dict.fromkeys(MAPS, "1 6 6:float64")
    robust = with_sets(ss.adapt(network.double(), spec, method=method, include=["norm"])).train()
    batch = {"left": draw(MAPS)["left"].double()}
    found, output = model_gradients(robust, batch), robust(batch).detach()
    robust.injection.folds = False  # the layer's own output is adapted then
    assert close([output], [robust(batch).detach()])
    assert close(found, model_gradients(robust, batch))


def test_a_copy_has_the_statistics_of_its_own_network() -> None:
    robust = in_place(inplace=False).eval()
    robust.mark_trained(robust.combinations)
    batch = {"left": draw(MAPS)["left"].double()}
    with torch.no_grad():
        expected = robust(batch)
        copied = copy.deepcopy(robust)
        robust.network.norm.running_mean += 1
        assert torch.equal(copied(batch), expected)


def test_low_memory_keeps_no_norms_output() -> None:
    batch, found, sizes = {name: torch.randn(8, 64, 16).double() for name in ("left", "right")}, {}, {}
    present = torch.tensor([[True, False], [False, True]] * 4)
    for memory in ("normal", "low"):
        torch.manual_seed(0)
        spec = dict.fromkeys(batch, "64 16:float64")
        robust = with_sets(ss.adapt(Deep().double(), spec, exclude=["head"], memory=memory)).train()
        assert robust.memory == memory
        model_gradients(robust, batch, present)
        with keeping() as kept:
            found[memory] = model_gradients(robust, batch, present)
        sizes[memory] = len({one.untyped_storage().data_ptr() for one in kept if one.numel() == 8 * 64 * 16})
    assert close(found["low"], found["normal"])
    assert sizes == {"normal": 7, "low": 5}


def test_another_word_for_memory_is_refused() -> None:
    network = Deep()
    with pytest.raises(
        ss.PlanError, match=r"memory: expected one of normal, low, checkpoint, but found 'lo'. Did you mean 'low'"
    ):
        ss.adapt(network, {"left": "64 16", "right": "64 16"}, memory="lo")
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_large_images_of_few_combinations_run_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = make("cameras")
    robust = with_sets(ss.adapt(network, **options))
    inputs = draw(options["modalities"])
    present = torch.stack([robust.modalities.present(robust.combinations[row % 2]) for row in range(4)])
    calls: list[int] = []
    network.up.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    with torch.no_grad():
        together = robust(inputs, present)
        calls.clear()
        monkeypatch.setattr("subsense.model.rows.LARGE_GROUP", 1)
        torch.testing.assert_close(robust(inputs, present), together, rtol=1e-5, atol=1e-5)
    assert calls == [2, 2]
    robust.train()(inputs, present)
    assert calls == [2, 2, 4]  # a training step stays one pass


def test_the_first_step_has_the_bits_of_any_other() -> None:
    network, options = make("sequences")
    robust = with_sets(ss.adapt(network, **options)).train()
    batch = draw(options["modalities"])
    present = torch.stack([robust.modalities.present(robust.combinations[row % 2]) for row in range(4)])
    found = [model_gradients(robust, batch, present) for _ in range(3)]
    for step in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(step, found[0], strict=True))
