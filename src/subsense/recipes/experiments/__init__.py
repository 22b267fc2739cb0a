"""The paper's experiments on a recipe, one file each: trained and kept by columns, as `subsense compare` does it."""

from __future__ import annotations

from subsense.recipes.experiments.calibration import calibration
from subsense.recipes.experiments.degradation import degradation
from subsense.recipes.experiments.ranks import ranks
from subsense.recipes.experiments.similarity import similarity
from subsense.recipes.experiments.unseen import check_left_out, unseen

__all__ = ["calibration", "check_left_out", "degradation", "ranks", "similarity", "unseen"]
