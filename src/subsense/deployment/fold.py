"""Write an adapter set into a copy of the network: an ordinary `nn.Module` of the network's own classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters import Adapter
from subsense.adapters.folding import fold_sets
from subsense.adapters.layers.computed import make_plain, refresh
from subsense.adapters.layers.layer import Slot
from subsense.deployment.beside import written_beside
from subsense.deployment.drop_absent import draw_example, drop, present_arguments
from subsense.deployment.export import Different, compare, write_export, write_onnx
from subsense.deployment.keeping import guard_keeping
from subsense.errors import FoldError
from subsense.injection.site import Site
from subsense.injection.wrapped import is_offloaded
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.modalities.inputs import Inputs, read
from subsense.modalities.loaders import num_rows
from subsense.model.robust import RobustModel
from subsense.routing.groups import output_tensors
from subsense.support.modules import evaluating
from subsense.support.torch_private import is_sharded

AdapterRow = tuple[Site, Adapter, Mapping[str, Tensor]]


def fold(
    robust: RobustModel,
    combination: CombinationLike | Mapping[str, float],
    *,
    onnx: str | Path | None = None,
    export: str | Path | None = None,
    example: Inputs | None = None,
    drop_absent: bool = False,
    largest_constant: float = 1.0,
) -> nn.Module:
    """Fold the adapter set of a combination into a copy of the network.

    The copy computes what the adapted network computes for that combination: call it as the network is called, with
    the same stand-ins for what is missing (`subsense.prepare` makes them). ``h' = gamma h + beta`` becomes
    ``W <- gamma W``, ``b <- gamma b + beta`` (arXiv 2310.03986); LoRA becomes ``W <- W + (alpha / rank) B A``.

    With `drop_absent` what serves only what is missing is left out. A missing input is filled with the same values in
    every row, so all that depends on it alone is a constant: it is computed once, for one row, and its encoder neither
    runs nor takes up memory. What comes back is a `torch.fx.GraphModule` of torch's own operations, convolutions merged
    with the batch normalisations after them, which takes the arguments that carry what is present: ``plain(rgb=x)``,
    ``plain(x)``, ``plain([x])``, ``plain({"rgb": x})``, as the network is called. The number of rows is free; every
    other size is that of the example, and another is refused, because constants depend on it. It is checked against the
    folded network on 1, 2 and 5 rows.

    A transformers network is read back as its config says: where folding gave it a bias that the config lacks, or other
    values to one of two tied weights, its `save_pretrained` raises `FoldError`. ``method=["scale", "bitfit"]`` shifts
    only where there is a bias.

    Args:
        robust: the adapted network; it and its network stay as they are.
        combination: which set; the complete one gives a plain copy. Or the quality of each modality that is there, in
            [0, 1]: ``{"rgb": 1.0, "thermal": 0.5}``.
        onnx: also write the folded network there as ONNX, and check what it gives against the folded network.
        export: also write it there with `torch.export` (``.pt2``), and check it in the same way.
        example: inputs (batch, ...) with which the folded network and the exports are checked; what is missing may be
            left out.
        drop_absent: leave out what serves only what is missing. Needs an example, unless all that is present is
            floating-point and of declared sizes.
        largest_constant: with `drop_absent`: what the network makes of its weights alone (relative positions, masks) is
            computed in advance where it has at most so many numbers for each number that it is made of, or 4,096. More
            spends memory to save time; what is absent is always computed in advance.

    Raises:
        ModalityError, UntrainedCombination: there is no such set.
        FoldError: a file was asked for without an example, the network can't be exported, or what was folded or
            exported gives other numbers; files are as they were then.
        WriteError: a file can't be written there.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> robust.mark_trained(robust.combinations)  # by `train`, were this more than an example
    >>> plain = ss.fold(robust, "left")
    >>> type(plain).__name__, plain(left=torch.zeros(2, 4), right=torch.zeros(2, 6)).shape
    ('Sum', torch.Size([2, 3]))
    """
    present, quality = _read(robust.modalities, combination)
    robust.injection.check_in_place()
    robust.trained_on.check()
    if (onnx or export) and example is None:
        raise FoldError("fold: writing ONNX or torch.export needs `example`, inputs such as the network will get")
    given = _present(present, example)
    if drop_absent and given is None:
        given = draw_example(robust.modalities, present, robust.network)
    adapters = robust.adapter_set(combination)
    with robust.no_adapters():
        refresh(robust.network)
        folded = _copy(robust.network)
    for _, rows in groupby(adapters, key=lambda one: one[0].key):
        _fold_site(folded, list(rows), decode=bool(drop_absent or onnx or export))
    guard_keeping(robust.network, folded)
    if given is None:
        _warn_of_masks(robust, present)
        return folded
    with _explained(robust, given), ExitStack() as files:
        _check(robust, folded, given, quality)
        result = drop(robust.filled(folded), given, largest_constant) if drop_absent else folded
        args, kwargs = prepare(robust, given, drop_absent=drop_absent) if onnx or export else ((), {})
        for path, write in ((onnx, write_onnx), (export, write_export)):
            if path:
                notes = _notes(robust, present, quality)
                part = files.enter_context(written_beside(Path(path)))
                write(result, args, kwargs, part, free_batch=drop_absent, notes=notes)
    return result


def _notes(robust: RobustModel, combination: Combination, quality: Tensor | None) -> dict[str, str]:
    """Give what an exported file says of itself: how far it can be trusted, where that was calibrated."""
    if robust.confidence is None:
        return {}
    present = robust.modalities.present(combination) if quality is None else quality
    trust = robust.confidence.trust(present.double().flatten().tolist(), robust.modalities)
    return {"subsense.trust": trust.model_dump_json()}


def prepare(
    robust: RobustModel, inputs: Inputs, *, drop_absent: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments with which a folded network is called: stand-ins where inputs are missing.

    Args:
        robust: the model whose fill and calling form are used.
        inputs: as for the model; nothing but what is present.
        drop_absent: for a network that was folded with it, which takes what is present and nothing else.

    Raises:
        FoldError: the network is called by a function of the user's, which has no arguments to give.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> args, kwargs = ss.prepare(robust, {"left": torch.ones(2, 4)})
    >>> {name: tuple(x.shape) for name, x in kwargs.items()}, float(kwargs["right"].abs().max())
    ({'left': (2, 4), 'right': (2, 6)}, 0.0)
    """
    filled = robust.filled(robust.network)
    if drop_absent:
        return present_arguments(filled, inputs)
    if robust.call.function is not None:
        raise FoldError(
            "prepare: this network is called by a function, so its arguments aren't known; call that function "
            "with the folded network"
        )
    return robust.call.arrange(robust.modalities, filled.fill_in(inputs), robust.call.omits)


def _copy(network: nn.Module) -> nn.Module:
    if is_offloaded(network):
        raise FoldError(
            "fold: the network's weights are offloaded by accelerate; bring them back first: "
            "accelerate.hooks.remove_hook_from_module(model.network, recurse=True)"
        )
    if not is_sharded(network):
        try:
            return copy.deepcopy(network)
        except RuntimeError as error:  # weights of a class of their own, excluded from adapting
            raise FoldError(f"fold: torch can't copy the network: {error}") from error
    from subsense.support.sharded import gathered

    return gathered(network)


def _read(
    modalities: Modalities, combination: CombinationLike | Mapping[str, float]
) -> tuple[Combination, Tensor | None]:
    if not isinstance(combination, Mapping):
        return modalities.combination(combination), None
    quality = modalities.quality(combination)
    return modalities.from_present(quality > 0), quality


def _present(combination: Combination, example: Inputs | None) -> Inputs | None:
    if example is None:
        return None
    for name in combination:
        if example.get(name) is None:
            raise FoldError(f"fold: {combination} has {name!r}, but `example` lacks it; it has {', '.join(example)}")
    return {name: example[name] for name in combination}


def _check(robust: RobustModel, folded: nn.Module, inputs: Inputs, quality: Tensor | None) -> None:
    present, filled = None if quality is None else quality.expand(num_rows(inputs), -1), robust.filled(folded)
    with evaluating(robust), torch.no_grad():
        expected, found = output_tensors(robust(inputs, present)), output_tensors(filled(inputs))
    if any(bool(one.isnan().any()) for one in expected):
        hidden = robust.fill.hidden(filled.fill_in(inputs))
        why = f": {hidden}, and attention or a mean over nothing is NaN" if hidden else ""
        what = "+".join(inputs)
        raise FoldError(f"fold: the adapted network itself gives NaN for {what}{why}; adapt it with another fill")
    compare("the folded network", expected, found)


@contextmanager
def _explained(robust: RobustModel, inputs: Inputs) -> Iterator[None]:
    """Say, where numbers differ, whether that is because a norm makes rounding as large as a signal."""
    try:
        yield
    except Different as error:
        batch = read(robust.modalities, inputs)
        with evaluating(robust):
            why = robust.execution.rounding.explain(robust.fill(batch), batch) or _nested(robust)
        raise FoldError(f"{error}{why}") from error


def _warn_of_masks(robust: RobustModel, present: Combination) -> None:
    """Warn where what stands in for a missing mask hides every token, and no example was there to try it."""
    fill = robust.fill
    kept = {key: fill.stand_ins()[name] for name, key in fill.names().items()}
    for (name, part), mask in fill.masks.items():
        if name in present or (fill.kinds[name] != "literal-zeros" and (name, part) not in kept):
            continue
        stand_in = kept.get((name, part), torch.zeros(1, dtype=mask.axes.torch_dtype))
        if bool(mask.hides_all(stand_in[None]).all()):
            warnings.warn(
                f"fold: where {name} is missing every token of it is masked ({mask.argument}, fill "
                f"{fill.kinds[name]!r}), and attention or a mean over nothing is NaN, zeros or a mean, by code path; "
                "nothing was tried, since there is no example: example=inputs does",
                stacklevel=3,
            )


def _nested(robust: RobustModel) -> str:
    """Name encoders of torch that give zeros for what is masked, but only without gradients and hooks."""
    encoders = [
        path
        for path, module in robust.network.named_modules()
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor
    ]
    if not encoders or not robust.fill.masks:
        return ""
    return (
        f". The likely cause: without gradients and hooks {', '.join(encoders)} (TransformerEncoder) "
        "gives zeros for masked tokens, and else what attention makes of them, and the network reads these; build it "
        "with enable_nested_tensor=False, which is right in both"
    )


def _fold_site(folded: nn.Module, rows: Sequence[AdapterRow], decode: bool) -> None:
    """Fold what acts at one site; `decode`: make numbers of codes, for a graph, where nothing changes, too."""
    site = rows[0][0]
    modules = [folded.get_submodule(path) for path in site.modules]
    layer = site.layer
    weights, like = _Once(), _like(folded, next(iter(rows[0][2].values())))
    for module in modules:
        if layer.computed:
            make_plain(module)
        weight = layer.weight.read(module)
        plain = like.new_ones(layer.weight.shape) if weight is None else weight.detach()
        acting = plain + layer.offset if layer.offset else plain
        bias = layer.bias.read(module) if layer.bias else None
        new_weight, new_bias = fold_sets(
            layer, [(adapter, row) for _, adapter, row in rows], acting, None if bias is None else bias.detach()
        )
        new_weight = (new_weight - layer.offset if layer.offset else new_weight).to(plain.dtype)
        changed = (layer.quantised and decode) or not torch.equal(new_weight, plain)
        if layer.quantised and changed:
            from subsense.adapters.layers.quantised import make_linear, unfoldable

            if why := unfoldable(module):
                raise FoldError(f"fold: {layer.path} ({layer.class_name}): {why}")
            make_linear(module)
            new_weight = new_weight.to(like.dtype)
        weights.write(layer.weight, module, new_weight, changed)
        if layer.bias and new_bias is not None:
            weights.write(layer.bias, module, new_bias.to(plain.dtype), changed=True)


def _like(network: nn.Module, row: Tensor) -> Tensor:
    """Give a tensor of the dtype and device for parameters that a layer does not have yet."""
    floats = (parameter for parameter in network.parameters() if parameter.is_floating_point())
    return next(floats, row).to(row.device)


class _Once:
    """Write new parameters into modules; a parameter that several modules share is replaced once, by a new shared one.

    Parameters are replaced, not changed in place: a weight tied to something that is no site keeps its values there.
    """

    def __init__(self) -> None:
        self.replaced: dict[int, nn.Parameter] = {}

    def write(self, slot: Slot, module: nn.Module, value: Tensor, changed: bool) -> None:
        """Put a value where the slot points."""
        owner, old = slot.owner(module), slot.parameter(module)
        if not changed:
            return
        if old is None or id(old) not in self.replaced:
            new = nn.Parameter(_whole(slot, old, value), requires_grad=old is not None and old.requires_grad)
            if old is not None:
                self.replaced[id(old)] = new
        else:
            new = self.replaced[id(old)]
        setattr(owner, slot.name, new)


def _whole(slot: Slot, old: Tensor | None, value: Tensor) -> Tensor:
    if slot.rows is None:
        return value.to(old.dtype if old is not None and old.is_floating_point() else value.dtype)
    whole = value.new_zeros(slot.length, *slot.shape[1:]) if old is None else old.detach().clone()
    whole[slice(*slot.rows)] = value.to(whole.dtype)
    return whole
