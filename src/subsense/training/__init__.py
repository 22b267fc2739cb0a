"""The one training loop, and the face by which adapters are trained."""

from subsense.training.adapters import train
from subsense.training.losses import Distill
from subsense.training.options import TrainOptions
from subsense.training.report import Epoch, TrainingReport

__all__ = ["Distill", "Epoch", "TrainOptions", "TrainingReport", "train"]
