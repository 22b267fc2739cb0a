"""Check that an adapter, or an adapted network, keeps its promises."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters import Method
from subsense.deployment.fold import fold
from subsense.modalities import AxisSpec
from subsense.modalities.inputs import Inputs, read
from subsense.model.adapt import adapt
from subsense.model.checkpoint import load, save
from subsense.model.robust import RobustModel
from subsense.routing.groups import output_tensors
from subsense.testing.layer_kinds import CHANNEL_FIRST, LAYER_KINDS, PACKED, LayerKind
from subsense.testing.promises import assert_close, assert_equal, assert_that, equal

FOLD_TOLERANCE = 1e-5  # relative to the greatest output, float32
ROW_TOLERANCE = 1e-5
BF16_TOLERANCE = 0.1


def check_adapter(method: Method, kind: str | LayerKind, *, sharing: str = "additive", compiled: bool = True) -> None:
    """Check that a method keeps the contract of an adapter at one kind of layer.

    Args:
        method: as for `subsense.adapt`.
        kind: a name in `LAYER_KINDS`, or a layer of your own.
        sharing: ``"independent"`` or ``"additive"``.
        compiled: whether to check `torch.compile` and `torch.export` too, which takes a second or so.

    Raises:
        AssertionError: a promise is broken.
        PlanError: the method has no site at such a layer.

    >>> check_adapter("ssf", "Linear", compiled=False)
    """
    chosen = LAYER_KINDS[kind] if isinstance(kind, str) else kind
    with _seeded(0):
        network = _TwoBranches(chosen)
        inputs = {name: torch.randn(4, *map(int, chosen.axes.split())) for name in ("left", "right")}
    spec = dict.fromkeys(inputs, chosen.axes)
    classes = {type(module) for module in network.modules()}
    declared = [one for one in (CHANNEL_FIRST, PACKED) if one.cls in classes]
    check_network(network, spec, inputs, method=method, sharing=sharing, layers=declared, compiled=compiled)


def check_network(
    network: nn.Module,
    modalities: Mapping[str, AxisSpec],
    inputs: Inputs,
    *,
    compiled: bool = True,
    **options: Any,
) -> None:
    """Check that a network keeps its promises when adapted: everything that `subsense.adapt` is trusted for.

    Args:
        network: any network; left as it was.
        modalities: as for `subsense.adapt`.
        inputs: a batch of at least two rows with everything present.
        compiled: whether to check `torch.compile` and `torch.export` too.
        options: further arguments of `subsense.adapt`.

    Raises:
        AssertionError: a promise is broken.
    """
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    original = copy.deepcopy(network).eval()
    robust = adapt(network, modalities, **options)
    try:
        _check_identity(robust, original, inputs)
        _check_seed(robust, modalities, options)
        _check_gradients(robust, inputs)
        _check_bytes(before, network, "training")
        robust.mark_trained(robust.combinations)
        robust.eval()
        _check_rows(robust, inputs)
        _check_modes(robust, inputs)
        _check_fold(robust, inputs)
        _check_autocast(robust, inputs)
        if compiled:
            _check_compile(robust, inputs)
            _check_export(robust, inputs)
        robust = _check_load(robust, inputs)
    finally:
        robust.detach()
    _check_detached(network, original, robust, inputs)
    _check_bytes(before, network, "everything above")


class _TwoBranches(nn.Module):
    def __init__(self, kind: LayerKind) -> None:
        super().__init__()
        self.first, self.second = kind.make(), kind.make()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.first(left) + self.second(right)
        return output


def _check_identity(robust: RobustModel, original: nn.Module, inputs: Inputs) -> None:
    expected = output_tensors(robust.filled(original)(inputs))
    assert_equal(robust(inputs), expected, "with every modality present the output is not the untouched network's")
    for combination in robust.combinations:
        some = {name: inputs[name] for name in combination}
        found = output_tensors(robust.train()(some))
        assert_close(found, output_tensors(robust.pretrained(some)), ROW_TOLERANCE, "it does not start at the identity")


def _check_seed(robust: RobustModel, modalities: Mapping[str, AxisSpec], options: Mapping[str, Any]) -> None:
    with robust.no_adapters():
        again = adapt(copy.deepcopy(robust.network), modalities, **options)
    pairs = zip(robust.adapter_parameters().values(), again.adapter_parameters().values(), strict=True)
    assert_that(all(torch.equal(one, other) for one, other in pairs), "the same seed gives different starts")


def _check_gradients(robust: RobustModel, inputs: Inputs) -> None:
    """Take one step of training from a random point, and leave the adapters there."""
    generator = torch.Generator().manual_seed(1)
    parameters = robust.train().adapter_parameters()
    with torch.no_grad():
        for parameter in parameters.values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * noise.to(parameter))
    for combination in robust.combinations:
        outputs = output_tensors(robust({name: inputs[name] for name in combination}))
        moved = [tensor for tensor in outputs if tensor.requires_grad]
        assert_that(bool(moved), f"no gradient reaches the adapters for {combination}")
        torch.stack([tensor.float().square().sum() for tensor in moved]).sum().backward()
    for name, parameter in parameters.items():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert_that(reached, f"{name} gets no gradient")
    torch.optim.SGD(parameters.values(), lr=1e-4).step()
    robust.zero_grad()


def _check_rows(robust: RobustModel, inputs: Inputs) -> None:
    present = _mixed(robust, inputs)
    with torch.no_grad():
        together = output_tensors(robust(inputs, present))
        for row, has in enumerate(present):
            some = {name: _row(inputs[name], row) for name in robust.modalities.from_present(has)}
            alone = output_tensors(robust(some))
            for tensor, single in zip(together, alone, strict=True):
                if tensor.dim() == single.dim() and tensor.shape[0] == len(present):
                    assert_close(
                        [tensor[row : row + 1]], [single], ROW_TOLERANCE, f"row {row} of a mixed batch differs"
                    )


def _check_modes(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        evaluated = robust.eval()(some)
        assert_equal(robust.train()(some), output_tensors(evaluated), "training mode gives another output")
        assert_equal(robust.eval()(some), output_tensors(evaluated), "the same call gives another output")


def _check_fold(robust: RobustModel, inputs: Inputs) -> None:
    for combination in robust.combinations:
        some = {name: inputs[name] for name in combination}
        folded = fold(robust, combination)
        classes = [type(module) for module in folded.modules()]
        assert_that(
            classes == [type(module) for module in robust.network.modules()], "folding changes the layers' classes"
        )
        with torch.no_grad():
            expected, found = output_tensors(robust(some)), output_tensors(robust.filled(folded)(some))
        assert_close(found, expected, FOLD_TOLERANCE, f"folded for {combination}, the output differs")


def _check_autocast(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        expected = output_tensors(robust(some))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = output_tensors(robust(some))
    assert_close([one.float() for one in found], expected, BF16_TOLERANCE, "autocast to bfloat16 gives other numbers")


def _check_compile(robust: RobustModel, inputs: Inputs) -> None:
    torch.compiler.reset()
    compiled = torch.compile(robust, backend="eager", fullgraph=True)
    with torch.no_grad():
        for args in ((_some(robust, inputs),), (inputs, _mixed(robust, inputs))):
            expected, found = output_tensors(robust(*args)), output_tensors(compiled(*args))
            assert_close(found, expected, ROW_TOLERANCE, "torch.compile gives other numbers")


def _check_export(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        exported = torch.export.export(robust, (some,)).module()
        found, expected = output_tensors(exported(some)), output_tensors(robust(some))
    assert_close(found, expected, ROW_TOLERANCE, "torch.export gives other numbers")


def _check_load(robust: RobustModel, inputs: Inputs) -> RobustModel:
    some = _some(robust, inputs)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        expected = output_tensors(robust(some))
        save(robust, folder)
        call = robust.call.function if robust.call.function is not None else None
        own = [type(adapter) for adapter in robust.plan.adapters]
        loaded = load(folder, robust.detach(), call=call, fill=robust.fill.functions or None, methods=own)
        assert_equal(loaded(some), expected, "saved and loaded, the output differs")
    return loaded


def _check_detached(network: nn.Module, original: nn.Module, robust: RobustModel, inputs: Inputs) -> None:
    for path, module in network.named_modules():
        assert_that(not module._forward_hooks, f"after detach, {path} still has a hook")
        assert_that("forward" not in vars(module), f"after detach, {path} still has a forward of its own")
    mode = network.training
    found = robust.filled(network.eval())(inputs)
    network.train(mode)
    assert_equal(found, output_tensors(robust.filled(original)(inputs)), "after detach, the output differs")


def _check_bytes(before: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    after = network.state_dict()
    assert_that(list(after) == list(before), f"{what} changes the keys of the network's state_dict")
    for name, tensor in before.items():
        assert_that(equal(tensor, after[name]), f"{what} changes the network's {name}")


def _some(robust: RobustModel, inputs: Inputs) -> dict[str, Any]:
    return {name: inputs[name] for name in robust.combinations[0]}


def _mixed(robust: RobustModel, inputs: Inputs) -> Tensor:
    num_rows = read(robust.modalities, inputs).num_rows
    cycle = (*robust.combinations, robust.modalities.complete)
    return torch.stack([robust.modalities.present(cycle[row % len(cycle)]) for row in range(num_rows)])


def _row(value: Any, row: int) -> Any:
    if isinstance(value, Mapping):
        return {name: tensor[row : row + 1] for name, tensor in value.items()}
    return value[row : row + 1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
