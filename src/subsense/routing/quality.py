"""Quality in [0, 1] per row and modality -> how much of each bank row each batch row uses.

With additive sharing a modality's row counts by 1 - quality. With independent sharing the row is the mean over what may
be there: each modality present with probability quality, independently of the others, and never nothing at all. At 0
and 1 both are what `Router` gives, and between them they follow each quality linearly (multilinear interpolation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subsense.errors import UntrainedCombination
from subsense.routing.router import Router

NONE = -1


def weights_of(router: Router, quality: Tensor, training: bool) -> Tensor:
    """Give the weights (batch, bank row) of a quality (batch, modality).

    Raises:
        UntrainedCombination: a set that would be mixed in wasn't trained, and the policy is ``"error"``.
    """
    weights = weights_or_nan(router, quality, training)
    if bool(weights.isnan().any()):
        raise UntrainedCombination(_refusal(router, quality, training))
    return weights


def weights_or_nan(router: Router, quality: Tensor, training: bool) -> Tensor:
    """Give the weights by tensor operations alone; NaN in the rows that `weights_of` would refuse."""
    served = router.table(training)
    shares = shares_of(quality)
    if router.sharing == "independent":
        columns = [router.index.get(code, NONE) for code in served]
        weights = _summed(shares, columns, len(router.combinations))
    else:
        weights = _additive(router, quality, shares, served)
    refused = torch.tensor([code == NONE for code in served], device=quality.device)
    lost = (shares * refused).sum(1, keepdim=True) > 0
    return torch.where(lost, float("nan"), weights)


def shares_of(quality: Tensor) -> Tensor:
    """Give how likely each combination is, as a bit mask: (batch, 2^modality); nothing at all is ruled out.

    >>> shares_of(torch.tensor([[0.5, 1.0]]))
    tensor([[0.0000, 0.0000, 0.5000, 0.5000]])
    """
    shares = torch.ones_like(quality[:, :1])
    for one in quality.split(1, dim=1):
        shares = torch.cat([shares * (1 - one), shares * one], dim=1)
    something = torch.cat([torch.zeros_like(shares[:, :1]), shares[:, 1:]], dim=1)
    return something / something.sum(1, keepdim=True)


def _additive(router: Router, quality: Tensor, shares: Tensor, served: Sequence[int]) -> Tensor:
    """Count a modality's row by 1 - quality; where the policy gives other sets, by the mean of what they lack."""
    if all(code in (own, NONE) for own, code in enumerate(served)):
        return 1 - quality
    lacking = [
        [float(code != NONE and not code >> bit & 1) for bit in range(len(router.modalities))] for code in served
    ]
    return shares @ torch.tensor(lacking, device=quality.device, dtype=quality.dtype)


def _summed(shares: Tensor, columns: Sequence[int], width: int) -> Tensor:
    """Add up the shares of the combinations that one set serves; those that none serves leave the network as it is."""
    wide = shares.new_zeros(len(shares), width + 1)
    index = torch.tensor([width if column == NONE else column for column in columns], device=shares.device)
    return wide.index_add(1, index, shares)[:, :width]


def _refusal(router: Router, quality: Tensor, training: bool) -> str:
    likely = (shares_of(quality) > 0).any(0).tolist()
    refused = [code for code, served in enumerate(router.table(training)) if served == NONE and likely[code]]
    names = ", ".join(str(router.modalities.from_code(code)) for code in refused)
    return f"a quality between 0 and 1 mixes the sets of combinations, here of {names}: {router.refusal(refused[0])}"
