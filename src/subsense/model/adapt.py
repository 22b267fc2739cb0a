"""`adapt`: check everything, then put adapters into a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from subsense.adapters import Method, parse_method
from subsense.adapters.common import is_common
from subsense.adapters.layers.declare import Declaration
from subsense.errors import PlanError
from subsense.injection.banks import Banks, start_banks
from subsense.injection.hooks import Injection, check_unadapted
from subsense.injection.planning import Plan, plan
from subsense.injection.saved_outputs import SavedOutputs
from subsense.injection.wrapped import check_materialised
from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.calling import Call, CallSpec, parse_call, spread_arguments
from subsense.modalities.declaration import Wanted
from subsense.modalities.filling import Filling, FillSpec
from subsense.modalities.signature import check_signature
from subsense.model.robust import RobustModel
from subsense.routing.router import Router


def adapt(
    network: nn.Module,
    modalities: Mapping[str, AxisSpec] | Modalities,
    *,
    call: CallSpec = "kwargs",
    method: Method = "ssf",
    sharing: str = "independent",
    combinations: Wanted = "all",
    fill: FillSpec = "zeros",
    untrained: str = "error",
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    layers: Sequence[Declaration] = (),
    seed: int = 0,
    check_inputs: bool = True,
    memory: str = "normal",
    merge: bool = True,
) -> RobustModel:
    """Make a pretrained multimodal network work with any subset of its modalities (arXiv 2310.03986).

    The network is frozen and put in eval mode; its weights, classes and `state_dict` stay as they are, and
    `RobustModel.detach` gives it back untouched. With every modality present it computes exactly what it did before.

    Warns where no adapter could reach more than a tenth of the parameters, embeddings aside, naming the largest and
    what declares them.

    Args:
        network: any `nn.Module`.
        modalities: name -> axis string without the batch: ``{"rgb": "3 H W", "thermal": "1 H W"}``.
        call: how the network takes its inputs, see `subsense.modalities.calling.parse_call`.
        method: what acts at each site, see `subsense.injection.planning.plan`.
        sharing: ``"independent"``, one bank row for each combination, or ``"additive"``, one for each modality: a
            combination's parameters are the sum of the rows of what is missing.
        combinations: ``"all"`` or those that get adapter sets; the complete one needs none.
        fill: what stands in for a missing input, see `subsense.modalities.filling.Filling`.
        untrained: ``"error"``, ``"nearest"`` or ``"pretrained"``, see `subsense.routing.router.Router`.
        include: patterns of module paths that may be sites, see `subsense.injection.planning.plan`.
        exclude: patterns of module paths that may not.
        layers: layer classes of the network's own, see `subsense.LayerClass` and `subsense.AttentionClass`.
        seed: for the start of methods that draw one (LoRA).
        check_inputs: refuse what is present and NaN, infinite or so large that it says "no value"
            (`subsense.modalities.inputs.HUGE`), axes of no size, and masks that hide all of it, naming the modality and
            the rows; False hands them to the network as they are. Can be set later, ``robust.check_inputs = False``;
            compiled graphs don't check.
        memory: ``"normal"``, or ``"low"``: training keeps less where the rows of a batch lack different modalities, and
            takes longer, see docs/performance.md. Can be set later, ``robust.memory = "low"``.
        merge: scale and shift a convolution at the BatchNorm behind it, which is the same and takes half of the
            parameters, see `subsense.injection.planning.plan`; False: at both, as published work counts them.

    Raises:
        ModalityError, PlanError: what was asked for can't be done; the network is as it was.

    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 2), nn.Linear(6, 2)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = adapt(Sum(), {"left": "4", "right": "6"}, sharing="additive")
    >>> robust({"left": torch.zeros(5, 4), "right": torch.zeros(5, 6)}).shape
    torch.Size([5, 2])
    """
    from subsense.injection.uncovered import warn_of_uncovered

    if not isinstance(modalities, Modalities):
        modalities = Modalities(spread_arguments(Modalities(modalities).spec, call))
    check_unadapted(network)
    check_materialised(network)
    parsed = parse_call(call, modalities)
    filling = Filling(modalities, fill, parsed.arguments)
    check_signature(network, parsed, modalities)
    parsed.omitting(network, filling.omitted)
    _check_common(method, sharing)
    router, saved = Router(modalities, modalities.select(combinations), sharing, untrained), SavedOutputs(memory)
    planned = plan(network, method, include=include, exclude=exclude, layers=layers, merge=merge)
    banks = start_banks(planned, len(router.row_names), network, torch.Generator().manual_seed(seed))
    filling.ask()
    warn_of_uncovered(network, planned.uncovered, stacklevel=2)
    robust = inject(network, planned, banks, filling, router, parsed)
    robust.check_inputs, robust.injection.saved = check_inputs, saved
    return robust


def _check_common(method: Method, sharing: str) -> None:
    if sharing == "independent" and any(map(is_common, parse_method(method))):
        raise PlanError(
            "method: Common has one row for all incomplete combinations, so with sharing='independent' training one "
            "would change the others; use sharing='additive'"
        )


def inject(
    network: nn.Module, plan: Plan, tensors: Mapping[str, Tensor], fill: Filling, router: Router, call: Call
) -> RobustModel:
    """Put adapters into a network, with these banks; everything was checked before."""
    notes = tuple(fill.describe_masks())
    plan, call = (
        replace(plan, num_rows=len(router.row_names), reached={}, notes=notes),
        call.omitting(network, fill.omitted),
    )
    banks = Banks(plan, tensors, network)
    return RobustModel(network, plan, banks, fill, router, Injection(network, plan, banks), call)
