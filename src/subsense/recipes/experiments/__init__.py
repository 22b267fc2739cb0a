"""The paper's experiments on a recipe, and one of our own, one file each.

What they train is kept by columns, as `subsense compare` does it.
"""

from __future__ import annotations

from subsense.recipes.experiments.calibration import calibration
from subsense.recipes.experiments.confidence import confidence
from subsense.recipes.experiments.corruption import check_kinds, corruption
from subsense.recipes.experiments.degradation import degradation
from subsense.recipes.experiments.ranks import ranks
from subsense.recipes.experiments.similarity import similarity
from subsense.recipes.experiments.unseen import check_left_out, unseen

__all__ = [
    "calibration",
    "check_kinds",
    "check_left_out",
    "confidence",
    "corruption",
    "degradation",
    "ranks",
    "similarity",
    "unseen",
]
