"""What a model's adapters are, apart from the network: parameters, stand-ins, and which sets are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from subsense.adapters import Adapter
from subsense.adapters.common import common_weights, is_common
from subsense.errors import CheckpointError, closest
from subsense.injection.banks import Banks
from subsense.injection.planning import Plan
from subsense.injection.site import Site
from subsense.modalities import CombinationLike
from subsense.routing.router import POLICIES, Router

EXTRA = "_extra_state"
"""Torch's key for what `get_extra_state` gives."""
AdapterRow = tuple[Site, Adapter, dict[str, Tensor]]


def adapter_set(plan: Plan, banks: Banks, weights: Tensor) -> list[AdapterRow]:
    """Give what weights (bank row,) select; nothing where all are 0."""
    if not weights.any():
        return []
    common = common_weights(weights)
    return [
        (site, adapter, _merged(adapter, banks.of(site, adapter), common if is_common(adapter) else weights))
        for site in plan.sites
        for adapter in site.adapters
    ]


def _merged(adapter: Adapter, banks: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    used = weights.nonzero().flatten()
    return adapter.merge({name: bank.detach()[used] for name, bank in banks.items()}, weights[used])


def weights_for(router: Router, served: CombinationLike | Mapping[str, float], banks: Banks) -> Tensor:
    """Give the weights (bank row,) of a combination, or of the quality of each modality."""
    if isinstance(served, Mapping):
        from subsense.routing.quality import weights_of

        quality = router.modalities.quality(served)[None]
        return weights_of(router, quality, training=False)[0].to(banks.dtype).to(banks.device)
    code = router.substitute(router.modalities.code(served), training=False)
    return router.uniform(code, banks.device).weights[0]


def training_state(router: Router) -> Tensor:
    """Give the policy and which bank rows are trained, uint8 (1 + bank row,): a tensor, so that no pickle is needed."""
    flags = [row in router.trained_rows for row in range(len(router.row_names))]
    return torch.tensor([POLICIES.index(router.untrained), *flags], dtype=torch.uint8)


def restore_training_state(router: Router, state: object) -> None:
    """Take over what `training_state` gave; `CheckpointError` where it is of another model."""
    length = 1 + len(router.row_names)
    if not isinstance(state, Tensor) or tuple(state.shape) != (length,) or int(state[0]) >= len(POLICIES):
        found = f"shape {tuple(state.shape)}" if isinstance(state, Tensor) else type(state).__name__
        raise CheckpointError(
            f"{EXTRA}: expected which of {length - 1} bank rows are trained, uint8 ({length},), but found {found}; "
            "adapt with the sharing and combinations that the state was made with"
        )
    policy, *flags = state.tolist()
    router.untrained = POLICIES[policy]
    router.trained_rows = frozenset(row for row, flag in enumerate(flags) if flag)


def load_adapter_state(router: Router, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy a state's tensors into a model's own, and take over what is trained; nothing changes where it doesn't fit.

    Raises:
        CheckpointError: tensors of other names or shapes, or of other bank rows.
    """
    given = {name: tensor for name, tensor in state.items() if name != EXTRA}
    _check_fits(own, given)
    restore_training_state(router, state.get(EXTRA))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def _check_fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in (*own, *given):
        if name not in given:
            raise CheckpointError(f"adapter state: {name!r} is missing")
        if name not in own:
            raise CheckpointError(f"adapter state: {name!r} belongs to no adapter.{closest(name, own)}")
        if own[name].shape != given[name].shape:
            raise CheckpointError(
                f"adapter state: {name!r}: expected shape {tuple(own[name].shape)}, but found "
                f"{tuple(given[name].shape)}"
            )
