"""The former place of `subsense.training.ohem`, for recipes that name it; it goes with 0.3."""

from subsense.training.ohem import HardCrossEntropy

__all__ = ["HardCrossEntropy"]
