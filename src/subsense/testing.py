"""Checks of the contracts that everything in subsense keeps, for the user's own networks, layers and data too.

Each check raises `AssertionError` naming the promise that is broken.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from subsense.adapters import Method
from subsense.adapters.layers.declare import AttentionClass, LayerClass
from subsense.deployment.fold import fold
from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.inputs import Inputs, read
from subsense.model.adapt import adapt
from subsense.model.checkpoint import load, save
from subsense.model.robust import RobustModel
from subsense.routing.groups import output_tensors

FOLD_TOLERANCE = 1e-5  # relative to the greatest output, float32
ROW_TOLERANCE = 1e-5
BF16_TOLERANCE = 0.1


@dataclass(frozen=True)
class LayerKind:
    """Name a layer that adapters are checked at.

    Attributes:
        make: makes one.
        axes: axis string of its input.
    """

    make: Callable[[], nn.Module]
    axes: str


LAYER_KINDS: Mapping[str, LayerKind] = {
    "Linear": LayerKind(lambda: nn.Linear(6, 4), "5 6"),
    "Linear, no bias": LayerKind(lambda: nn.Linear(6, 4, bias=False), "6"),
    "Conv1d": LayerKind(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), "4 9"),
    "Conv2d": LayerKind(lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), "4 5 5"),
    "Conv2d, groups": LayerKind(lambda: nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(1, 2), bias=False), "4 6 6"),
    "Conv2d, depthwise": LayerKind(lambda: nn.Conv2d(4, 8, 3, groups=4, padding="same"), "4 5 5"),
    "Conv3d": LayerKind(lambda: nn.Conv3d(2, 4, 2, padding=1, padding_mode="circular"), "2 3 4 3"),
    "ConvTranspose1d": LayerKind(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), "4 5"),
    "ConvTranspose2d": LayerKind(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), "4 4 5"),
    "ConvTranspose3d": LayerKind(lambda: nn.ConvTranspose3d(2, 4, 2, dilation=2, bias=False), "2 3 3 3"),
    "BatchNorm1d": LayerKind(lambda: _used(nn.BatchNorm1d(4)), "4 5"),
    "BatchNorm2d": LayerKind(lambda: _used(nn.BatchNorm2d(4)), "4 3 3"),
    "BatchNorm3d": LayerKind(lambda: _used(nn.BatchNorm3d(4)), "4 2 3 2"),
    "BatchNorm2d, no affine": LayerKind(lambda: nn.BatchNorm2d(4, affine=False), "4 3 3"),
    "LayerNorm": LayerKind(lambda: _used(nn.LayerNorm(6)), "5 6"),
    "LayerNorm, two axes": LayerKind(lambda: _used(nn.LayerNorm((5, 6))), "3 5 6"),
    "LayerNorm, no affine": LayerKind(lambda: nn.LayerNorm(6, elementwise_affine=False), "5 6"),
    "GroupNorm": LayerKind(lambda: _used(nn.GroupNorm(2, 4)), "4 3 3"),
    "InstanceNorm1d": LayerKind(lambda: _used(nn.InstanceNorm1d(4, affine=True)), "4 7"),
    "InstanceNorm2d": LayerKind(lambda: nn.InstanceNorm2d(4, track_running_stats=True), "4 3 3"),
    "InstanceNorm3d": LayerKind(lambda: _used(nn.InstanceNorm3d(4, affine=True)), "4 2 3 2"),
    "RMSNorm": LayerKind(lambda: _used(nn.RMSNorm(6)), "5 6"),
    "MultiheadAttention": LayerKind(lambda: _SelfAttention(8, 2, batch_first=True), "5 8"),
    "MultiheadAttention, sequence first": LayerKind(lambda: _SelfAttention(8, 2), "5 8"),
    "MultiheadAttention, own widths": LayerKind(lambda: _SelfAttention(8, 2, kdim=8, vdim=8, bias=False), "5 8"),
    "declared norm": LayerKind(lambda: ChannelFirstNorm(4), "4 3 3"),
    "declared attention": LayerKind(lambda: PackedAttention(8, 2), "5 8"),
}
"""Layers at which `check_adapter` tries a method, by name."""


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


def check_dataset(dataset: Any, modalities: Mapping[str, AxisSpec], *, num_items: int = 8) -> None:
    """Check that a data set's items fit the declared modalities, and that reading one twice gives the same.

    Args:
        dataset: map-style: ``dataset[i]`` is ``(inputs, target)``, inputs without a batch axis.
        modalities: name -> axis string.
        num_items: how many items to look at, spread evenly.

    Raises:
        AssertionError, InputError: an item that does not fit.
    """
    assert len(dataset), "expected a data set with items, but found an empty one"
    declared = Modalities(modalities)
    for index in range(0, len(dataset), max(1, len(dataset) // num_items)):
        (inputs, target), (again, target_again) = dataset[index], dataset[index]
        _assert(set(inputs) - {"present"} <= set(declared), f"item {index}: unknown modalities in {sorted(inputs)}")
        read(declared, {name: _batched(value) for name, value in inputs.items() if value is not None})
        same = all(_equal(value, again[name]) for name, value in inputs.items())
        _assert(same and _equal(target, target_again), f"item {index}: reading it twice gives different values")


class ChannelFirstNorm(nn.Module):
    """Normalise over the channels of (batch, channel, ...) with parameters of its own: a layer class to declare."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(num_channels))
        self.offset = nn.Parameter(0.1 * torch.randn(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        centred = x - x.mean(1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps)
        shape = (-1, *[1] * (x.dim() - 2))
        return self.gain.view(shape) * scaled + self.offset.view(shape)


CHANNEL_FIRST = LayerClass(ChannelFirstNorm, kind="norm", axis=1, weight="gain", bias="offset")


class PackedAttention(nn.Module):
    """Attend over (batch, position, channel) with packed raw parameters: a layer class to declare."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.packed = nn.Parameter(torch.randn(3 * size, size) / size**0.5)
        self.offset = nn.Parameter(0.1 * torch.randn(3 * size))
        self.out = nn.Linear(size, size)
        self.size, self.num_heads = size, num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Attend, with the query on its own and key and value in one product."""
        query = functional.linear(x, self.packed[: self.size], self.offset[: self.size])
        key, value = functional.linear(x, self.packed[self.size :, :], self.offset[self.size :]).chunk(2, -1)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed: Tensor = self.out(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return mixed


PACKED = AttentionClass(PackedAttention, weight="packed", bias="offset")


class _SelfAttention(nn.Module):
    def __init__(self, size: int, num_heads: int, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, num_heads, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attention.batch_first else x.transpose(0, 1)
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output if self.attention.batch_first else output.transpose(0, 1)


class _TwoBranches(nn.Module):
    def __init__(self, kind: LayerKind) -> None:
        super().__init__()
        self.first, self.second = kind.make(), kind.make()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.first(left) + self.second(right)
        return output


def _used(layer: nn.Module) -> nn.Module:
    """Give a normalisation layer parameters and statistics as if it had been trained."""
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.2 * torch.randn_like(tensor)
            tensor.copy_(tensor + (noise.abs() if name == "running_var" else noise))
    return layer


def _check_identity(robust: RobustModel, original: nn.Module, inputs: Inputs) -> None:
    expected = output_tensors(robust.filled(original)(inputs))
    _assert_equal(robust(inputs), expected, "with every modality present the output is not the untouched network's")
    for combination in robust.combinations:
        some = {name: inputs[name] for name in combination}
        found = output_tensors(robust.train()(some))
        _assert_close(
            found, output_tensors(robust.pretrained(some)), ROW_TOLERANCE, "it does not start at the identity"
        )


def _check_seed(robust: RobustModel, modalities: Mapping[str, AxisSpec], options: Mapping[str, Any]) -> None:
    with robust.no_adapters():
        again = adapt(copy.deepcopy(robust.network), modalities, **options)
    pairs = zip(robust.adapter_parameters().values(), again.adapter_parameters().values(), strict=True)
    _assert(all(torch.equal(one, other) for one, other in pairs), "the same seed gives different starts")


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
        _assert(bool(moved), f"no gradient reaches the adapters for {combination}")
        torch.stack([tensor.float().square().sum() for tensor in moved]).sum().backward()
    for name, parameter in parameters.items():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        _assert(reached, f"{name} gets no gradient")
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
                    _assert_close(
                        [tensor[row : row + 1]], [single], ROW_TOLERANCE, f"row {row} of a mixed batch differs"
                    )


def _check_modes(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        evaluated = robust.eval()(some)
        _assert_equal(robust.train()(some), output_tensors(evaluated), "training mode gives another output")
        _assert_equal(robust.eval()(some), output_tensors(evaluated), "the same call gives another output")


def _check_fold(robust: RobustModel, inputs: Inputs) -> None:
    for combination in robust.combinations:
        some = {name: inputs[name] for name in combination}
        folded = fold(robust, combination)
        classes = [type(module) for module in folded.modules()]
        _assert(classes == [type(module) for module in robust.network.modules()], "folding changes the layers' classes")
        with torch.no_grad():
            expected, found = output_tensors(robust(some)), output_tensors(robust.filled(folded)(some))
        _assert_close(found, expected, FOLD_TOLERANCE, f"folded for {combination}, the output differs")


def _check_autocast(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        expected = output_tensors(robust(some))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = output_tensors(robust(some))
    _assert_close([one.float() for one in found], expected, BF16_TOLERANCE, "autocast to bfloat16 gives other numbers")


def _check_compile(robust: RobustModel, inputs: Inputs) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(robust, backend="eager", fullgraph=True)
    with torch.no_grad():
        for args in ((_some(robust, inputs),), (inputs, _mixed(robust, inputs))):
            expected, found = output_tensors(robust(*args)), output_tensors(compiled(*args))
            _assert_close(found, expected, ROW_TOLERANCE, "torch.compile gives other numbers")


def _check_export(robust: RobustModel, inputs: Inputs) -> None:
    some = _some(robust, inputs)
    with torch.no_grad():
        exported = torch.export.export(robust, (some,)).module()
        found, expected = output_tensors(exported(some)), output_tensors(robust(some))
    _assert_close(found, expected, ROW_TOLERANCE, "torch.export gives other numbers")


def _check_load(robust: RobustModel, inputs: Inputs) -> RobustModel:
    some = _some(robust, inputs)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        expected = output_tensors(robust(some))
        save(robust, folder)
        call = robust.call.function if robust.call.function is not None else None
        own = [type(adapter) for adapter in robust.plan.adapters]
        loaded = load(folder, robust.detach(), call=call, fill=robust.fill.functions or None, methods=own)
        _assert_equal(loaded(some), expected, "saved and loaded, the output differs")
    return loaded


def _check_detached(network: nn.Module, original: nn.Module, robust: RobustModel, inputs: Inputs) -> None:
    for path, module in network.named_modules():
        _assert(not module._forward_hooks, f"after detach, {path} still has a hook")
        _assert("forward" not in vars(module), f"after detach, {path} still has a forward of its own")
    mode = network.training
    found = robust.filled(network.eval())(inputs)
    network.train(mode)
    _assert_equal(found, output_tensors(robust.filled(original)(inputs)), "after detach, the output differs")


def _check_bytes(before: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    after = network.state_dict()
    _assert(list(after) == list(before), f"{what} changes the keys of the network's state_dict")
    for name, tensor in before.items():
        _assert(_equal(tensor, after[name]), f"{what} changes the network's {name}")


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


def _batched(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: torch.as_tensor(tensor)[None] for name, tensor in value.items()}
    return torch.as_tensor(value)[None]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return all(_equal(value, other[name]) for name, value in one.items())
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def _assert_equal(found: Any, expected: list[Tensor], promise: str) -> None:
    pairs = zip(output_tensors(found), expected, strict=True)
    _assert(all(torch.equal(one, other) for one, other in pairs), promise)


def _assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float, promise: str) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp(min=1e-12) if other.numel() else torch.ones(())
        difference = (
            float((one.detach().double() - other.detach().double()).abs().max() / scale.detach())
            if other.numel()
            else 0.0
        )
        _assert(difference <= tolerance, f"{promise}: by {difference:.1e} of the greatest output")


def _assert(holds: bool, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
