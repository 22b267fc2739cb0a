"""How near a network's features are to those it has with every modality: layer by layer, frozen and adapted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from subsense.errors import InputError
from subsense.evaluation.evaluate import asked_for
from subsense.modalities import Combination
from subsense.modalities.declaration import Wanted
from subsense.modalities.loaders import available, moved, num_rows, split, take
from subsense.model.robust import RobustModel
from subsense.routing.placement import Placement
from subsense.support.modules import device_of, evaluating

WAYS = ("pretrained", "adapted")


@dataclass(frozen=True)
class Similarity:
    """Hold mean cosine similarities.

    Attributes:
        sites: in the order in which the network reaches them.
        values: (combination, "pretrained" or "adapted") -> one mean for each site, -1 to 1.
        count: the rows of data that each mean is over.
        left_out: sites at which rows could not be told apart.
    """

    sites: tuple[str, ...]
    values: Mapping[tuple[str, str], tuple[float, ...]]
    count: int
    left_out: tuple[str, ...] = ()


def feature_similarity(robust: RobustModel, loader: Iterable[Any], *, combinations: Wanted = "all") -> Similarity:
    """Measure the cosine similarity between features with all modalities and features with missing ones.

    For every row of data that lacks nothing, and every site: the cosine of the angle between all that the site gives
    for that row with everything present and what it gives with the rest withheld, by the frozen network on filled
    inputs and by the adapted one; then the mean over rows.

    Args:
        robust: the network with trained adapter sets.
        loader: batches ``(inputs, target)``, as for `subsense.evaluate`; the target isn't read.
        combinations: those to measure; the complete one, which is 1 everywhere, is left out.

    Raises:
        InputError: no row that has everything.
        UntrainedCombination: as for `RobustModel.forward`.
    """
    asked = [one for one in asked_for(robust.modalities, combinations) if len(one) < len(robust.modalities)]
    sums: dict[tuple[str, str], dict[str, float]] = {(str(one), way): {} for one in asked for way in WAYS}
    count = 0
    with evaluating(robust):
        for batch in loader:
            inputs = _complete(robust, batch)
            if inputs is None:
                continue
            places = robust.locate(inputs).placements if robust.located is None else robust.located.placements
            count += num_rows(inputs)
            for combination in asked:
                for way, values in _similarities(robust, inputs, combination, places).items():
                    total = sums[str(combination), way]
                    total.update({site: total.get(site, 0.0) + value for site, value in values.items()})
    if not count:
        raise InputError("loader: expected at least one row that has every modality, but found none")
    sites = tuple(next(iter(sums.values()))) if sums else ()
    means = {key: tuple(total[site] / count for site in sites) for key, total in sums.items()}
    return Similarity(sites, means, count, tuple(site.key for site in robust.plan.sites if site.key not in sites))


def _complete(robust: RobustModel, batch: Any) -> dict[str, Any] | None:
    """Give the rows of a batch that have every modality; None where there are none."""
    inputs = split(batch)[0]
    has = available(robust.modalities, inputs).all(1)
    rows = has.nonzero().flatten()
    if not len(rows):
        return None
    device = device_of(robust)
    chosen: Mapping[str, Any] = take({name: inputs[name] for name in robust.modalities}, rows, len(has), "inputs")
    return moved(chosen, device)


def _similarities(
    robust: RobustModel,
    inputs: Mapping[str, Any],
    combination: Combination,
    places: Mapping[str, Sequence[Placement | None]],
) -> dict[str, dict[str, float]]:
    """Give the sum over rows of the similarity at each site, frozen and adapted."""
    count = num_rows(inputs)
    fewer = {name: inputs[name] for name in combination}
    whole = robust.features(inputs)
    located = [site for site in whole if None not in places.get(site, (None,))]
    goal = {site: _by_row(whole[site], places[site], count) for site in located}
    sums = {}
    for way in WAYS:
        found = robust.features(fewer, adapted=way == "adapted")
        near = {site: cosine_similarity(_by_row(found[site], places[site], count), goal[site]) for site in located}
        sums[way] = {site: float(values.double().sum()) for site, values in near.items()}
    return sums


def _by_row(calls: Sequence[Tensor], places: Sequence[Placement | None], num_rows: int) -> Tensor:
    """Give all that a site gives, in all its calls, as (row, feature)."""
    parts = []
    for tensor, place in zip(calls, places, strict=True):
        assert place is not None
        moved = tensor.movedim(place.axis, 0)
        folded = moved.reshape(*((-1, num_rows) if place.inner else (num_rows, -1)), *moved.shape[1:])
        parts.append((folded.transpose(0, 1) if place.inner else folded).flatten(1).float())
    return torch.cat(parts, 1)
