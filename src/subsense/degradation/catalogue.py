"""Every degradation by name."""

from __future__ import annotations

from subsense.degradation.images import OF_IMAGES
from subsense.degradation.kinds import Degradation
from subsense.degradation.series import OF_SERIES
from subsense.degradation.values import OF_VALUES
from subsense.degradation.words import OF_WORDS
from subsense.errors import InputError, closest

DEGRADATIONS = {one.name: one for one in (*OF_VALUES, *OF_SERIES, *OF_IMAGES, *OF_WORDS)}


def find(name: str | Degradation) -> Degradation:
    """Give a degradation by name; one of the user's own is handed on.

    Raises:
        InputError: there is none of that name.

    >>> find("stuck").unit
    'share of the time'
    """
    if isinstance(name, Degradation):
        return name
    if name not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise InputError(
            f"unknown degradation {name!r}; known: {known}.{closest(str(name), DEGRADATIONS)} Several act in turn by "
            "subsense.degradation.composed"
        )
    return DEGRADATIONS[name]
