"""Walk a network and say of each layer what adapters need to know: torch's own kinds, and those that are declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parameter import is_lazy

from subsense.adapters.layers import runs
from subsense.adapters.layers.declare import Declaration
from subsense.adapters.layers.foreign import foreign, may_be_layer, strange_tensor
from subsense.adapters.layers.kinds import CONV, LINEAR, NORM, TABLE, TRANSPOSED
from subsense.adapters.layers.layer import Layer, Run, Slot
from subsense.errors import PlanError, UnsupportedLayer
from subsense.support.torch_private import (
    BatchNorm,
    Convolution,
    InstanceNorm,
    NormBase,
    TransposedConvolution,
    channel_axis,
    is_packed,
    own_forward,
)

if TYPE_CHECKING:
    from subsense.adapters.layers.recognise import Known

# What reads a network, rather than adapts it, is imported when one is read.


def _linear(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, nn.Linear)
    features = (module.out_features,)
    weight = Slot("weight", (module.out_features, module.in_features))
    yield Layer(
        path,
        LINEAR,
        type(module).__name__,
        features,
        -1,
        weight,
        Slot("bias", features),
        run=_run(module, nn.Linear, runs.LINEAR),
    )


def _conv(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, Convolution)
    transposed = isinstance(module, TransposedConvolution)
    features, axis = (module.out_channels,), -1 - len(module.kernel_size)
    from subsense.adapters.layers.computed import shape_of

    weight = Slot("weight", shape_of(module, "weight"))
    yield Layer(
        path,
        TRANSPOSED if transposed else CONV,
        type(module).__name__,
        features,
        axis,
        weight,
        Slot("bias", features),
        groups=module.groups,
        out_axis=int(transposed),
        run=None if transposed else runs.convolution(module),
    )


def _channel_norm(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, (nn.GroupNorm, NormBase))
    features = (module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features,)
    axis = channel_axis(module) if isinstance(module, InstanceNorm) else 1
    slots = Slot("weight", features), Slot("bias", features)
    # GroupNorm's kernel gets the gradient of another pair from sums that nearly cancel: 1e-3 off in float32.
    run = _run(module, BatchNorm, runs.BATCH_NORM)
    yield Layer(path, NORM, type(module).__name__, features, axis, *slots, run=run)


def _trailing_norm(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    features = tuple(module.normalized_shape)
    bias = Slot("bias", features) if isinstance(module, nn.LayerNorm) else None
    run = _run(module, nn.LayerNorm, runs.LAYER_NORM) or _run(module, nn.RMSNorm, runs.RMS_NORM)
    yield Layer(path, NORM, type(module).__name__, features, -len(features), Slot("weight", features), bias, run=run)


def _attention(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, nn.MultiheadAttention)
    size, name = module.embed_dim, type(module).__name__
    inputs = {"query": size, "key": module.kdim, "value": module.vdim}
    for index, (part, width) in enumerate(inputs.items()):
        rows = (index * size, (index + 1) * size)
        packed = is_packed(module)
        weight = (
            Slot("in_proj_weight", (size, width), rows=rows, length=3 * size)
            if packed
            else Slot(f"{part[0]}_proj_weight", (size, width))
        )
        bias = Slot("in_proj_bias", (size,), rows=rows, length=3 * size)
        yield Layer(path, LINEAR, name, (size,), -1, weight, bias, part)
    weight, bias = Slot("weight", (size, size), "out_proj"), Slot("bias", (size,), "out_proj")
    yield Layer(path, LINEAR, name, (size,), -1, weight, bias, "output")


def _table(path: str, module: nn.Embedding, holders: Mapping[int, int]) -> Iterator[Layer]:
    """Give an embedding table; nothing for one that is shared, or changes its entries when they are read."""
    own = own_forward(type(module)) or "forward" in vars(module) or not isinstance(module.weight, nn.Parameter)
    if module.max_norm is None and not (own or strange_tensor(module)) and holders[id(module.weight)] == 1:
        features, weight = (module.embedding_dim,), Slot("weight", (module.num_embeddings, module.embedding_dim))
        yield Layer(path, TABLE, type(module).__name__, features, -1, weight, None, found=True)


def _run(module: nn.Module, base: type[nn.Module], run: Run | None) -> Run | None:
    """Give how a layer is run; None for a class that torch itself runs otherwise (`SyncBatchNorm`)."""
    return run if type(module).forward is base.forward else None


_PACKED = ("in_proj_weight", "in_proj_bias")
Describe = Callable[[str, nn.Module], Iterator[Layer | UnsupportedLayer]]
_KNOWN: dict[type[nn.Module], Describe] = {
    nn.Linear: _linear,
    Convolution: _conv,
    BatchNorm: _channel_norm,
    InstanceNorm: _channel_norm,
    nn.GroupNorm: _channel_norm,
    nn.LayerNorm: _trailing_norm,
    nn.RMSNorm: _trailing_norm,
    nn.MultiheadAttention: _attention,
}


def describe(
    network: nn.Module, declared: Sequence[Declaration] = ()
) -> Iterator[tuple[nn.Module, Layer | UnsupportedLayer]]:
    """Walk a network and describe each layer that adapters can serve, in registration order.

    A module that looks like such a layer but can't be served right comes as the error that would be raised for it.

    Args:
        network: the network; nothing of it is changed.
        declared: the user's own layer classes.
    """
    from subsense.adapters.layers.whole import whole_layers

    modules = list(network.named_modules())
    _check_sizes(modules)
    _check_declared({type(module) for _, module in modules}, declared)
    own = {declaration.cls: declaration.describe for declaration in declared}
    closed: tuple[str, ...] = ()
    known: Known = {}
    holders = Counter(id(one) for _, module in modules for one in (*module.children(), *module._parameters.values()))
    for path, module in modules:
        if path.startswith(closed):
            continue
        declaration, why_foreign = own.get(type(module)), foreign(module)
        if (isinstance(module, nn.MultiheadAttention) or why_foreign) and not declaration:
            closed += (f"{path}." if path else "",)
        if isinstance(module, nn.Embedding) and not declaration:
            yield from ((module, layer) for layer in _table(path, module, holders))
            continue
        whole = () if declaration or why_foreign else tuple(whole_layers(path, module))
        for layer in declaration(path, module) if declaration else whole or _describe(path, module, why_foreign, known):
            yield module, _alone(layer, module, holders)


def _alone(layer: Layer | UnsupportedLayer, module: nn.Module, holders: Mapping[int, int]) -> Layer | UnsupportedLayer:
    """Refuse a layer that hands its output on to a module which others hand theirs to, too."""
    if isinstance(layer, Layer) and layer.seen and holders[id(module.get_submodule(layer.seen))] > 1:
        return UnsupportedLayer(
            f"{layer.path} ({layer.class_name}): its {layer.seen} is that of other layers, too, so it isn't known "
            "whose output it is given; exclude it"
        )
    return layer


def _describe(
    path: str, module: nn.Module, why_foreign: str | None, known: Known
) -> Iterable[Layer | UnsupportedLayer]:
    if not why_foreign and isinstance(module, nn.Linear) and type(module._parameters.get("weight")) is not nn.Parameter:
        from subsense.adapters.layers.quantised import quantised_layer, quantiser_of

        if library := quantiser_of(module):
            return (quantised_layer(path, module, library),)
    base = next((base for base in _KNOWN if isinstance(module, base)), None)
    if not (why_foreign or base or may_be_layer(module)):
        return ()
    fault = why_foreign or _fault(module)
    if not fault:
        if base and own_forward(type(module)) is None:
            made = _made_of(module)
            return (replace(one, run=None, computed=made) if made and isinstance(one, Layer) else one
                    for one in _KNOWN[base](path, module))  # fmt: skip
        found = _recognised(path, module, base, known)
        if isinstance(found, Layer):
            return (found,)
        fault = found
        base = None if "no tensor" in fault else base  # see `subsense.adapters.layers.probe.NO_TENSOR`
    if not (why_foreign or base):  # it holds what a layer holds, and is none
        return ()
    return (UnsupportedLayer(f"{path or 'the network'} ({type(module).__name__}): {fault}"),)


def _made_of(module: nn.Module) -> tuple[str, ...] | None:
    from subsense.adapters.layers.computed import made_of

    return made_of(module)


def _recognised(path: str, module: nn.Module, base: type[nn.Module] | None, known: Known) -> Layer | str:
    """Give the layer that a class which isn't torch's computes, or say why none."""
    from subsense.adapters.layers.recognise import recognise

    own = (own_forward(type(module)) or type(module)).__name__
    if base is nn.MultiheadAttention:
        return f"class {own} has a forward of its own; declare it: layers=[AttentionClass({own}, ...)], or exclude it"
    like = next(iter(_KNOWN[base](path, module))) if base else None
    found = recognise(path, module, like if isinstance(like, Layer) else None, known)
    if isinstance(found, Layer):
        return found
    return f"class {own} has a forward of its own, and {found}; exclude it"


def _fault(module: nn.Module) -> str | None:
    if "forward" in vars(module):
        return "its forward was replaced on the instance; remove that, or exclude the layer"
    strange = next(filter(None, map(strange_tensor, _owners(module))), None)
    return _computed_weight(module) or (strange and f"{strange}, so nothing can be folded into it; exclude it")


def _computed_weight(module: nn.Module) -> str | None:
    if own_forward(type(module)) is None and not isinstance(module, nn.MultiheadAttention) and _made_of(module):
        return None
    names = [
        name
        for owner in _owners(module)
        for name in ("weight", "bias", *_PACKED * isinstance(owner, nn.MultiheadAttention))
        if name not in owner._parameters and getattr(owner, name, None) is not None
    ]
    if names:
        return (
            f"its {names[0]} is computed (pruning, or a parametrization that can't be served here); make it plain with "
            "torch.nn.utils.prune.remove or torch.nn.utils.parametrize.remove_parametrizations, or exclude the layer"
        )
    return None


def _owners(module: nn.Module) -> list[nn.Module]:
    """Give the modules which hold a layer's parameters."""
    return [module, module.out_proj] if isinstance(module, nn.MultiheadAttention) else [module]


def _check_sizes(modules: Iterable[tuple[str, nn.Module]]) -> None:
    for path, module in modules:
        tensors = (*module._parameters.values(), *module._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in tensors):
            raise UnsupportedLayer(
                f"{path or 'the network'} ({type(module).__name__}): its size isn't known yet; run the network once "
                "before adapting it"
            )


def _check_declared(classes: Container[type[nn.Module]], declared: Sequence[Declaration]) -> None:
    for declaration in declared:
        if not isinstance(declaration, Declaration):
            raise PlanError(f"layers: expected LayerClass(...) or AttentionClass(...), but found {declaration!r}")
        if declaration.cls not in classes:
            raise PlanError(f"layers: the network has no layer of class {declaration.cls.__name__}")
        if sum(other.cls is declaration.cls for other in declared) > 1:
            raise PlanError(f"layers: {declaration.cls.__name__} is declared twice")
