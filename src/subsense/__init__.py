"""Make a pretrained multimodal PyTorch network work with any subset of its modalities.

Every weight of the network stays as it is; small adapter sets are trained for the combinations of available modalities,
chosen at inference by what is present, and folded into plain networks for deployment (arXiv 2310.03986).
"""

from subsense.adapters import SSF, BitFit, LoRA, Norm, Scale, Shift
from subsense.adapters.layers.declare import AttentionClass, LayerClass
from subsense.calibration import CalibrationReport, calibrate
from subsense.deployment.fold import fold, prepare
from subsense.errors import (
    CalibrationError,
    CheckpointError,
    DamagedFile,
    DataError,
    FactoryError,
    FoldError,
    ForeignTensor,
    InputError,
    LayerNeverCalled,
    MetricError,
    MissingFile,
    ModalityError,
    NonFiniteLoss,
    OtherModalities,
    OtherNetwork,
    PlanError,
    RecipeError,
    ResultsError,
    SubsenseError,
    TrainingError,
    UnmatchedPattern,
    UnsupportedLayer,
    UntrainedCombination,
    WriteError,
)
from subsense.evaluation.evaluate import evaluate
from subsense.evaluation.reporting import collect_examples, report
from subsense.evaluation.results import Results
from subsense.injection.planning import Plan, plan
from subsense.modalities import Combination, Modalities
from subsense.modalities.collating import Collate, Incomplete
from subsense.modalities.filling import Constant, Mean
from subsense.model.adapt import adapt
from subsense.model.checkpoint import load, save
from subsense.model.robust import RobustModel
from subsense.training import Distill, train
from subsense.training.baselines import finetune, train_dedicated
from subsense.training.sampling import draw_present

__version__ = "0.1.0"

__all__ = [
    "SSF",
    "AttentionClass",
    "BitFit",
    "CalibrationError",
    "CalibrationReport",
    "CheckpointError",
    "Collate",
    "Combination",
    "Constant",
    "DamagedFile",
    "DataError",
    "Distill",
    "FactoryError",
    "FoldError",
    "ForeignTensor",
    "Incomplete",
    "InputError",
    "LayerClass",
    "LayerNeverCalled",
    "LoRA",
    "Mean",
    "MetricError",
    "MissingFile",
    "Modalities",
    "ModalityError",
    "NonFiniteLoss",
    "Norm",
    "OtherModalities",
    "OtherNetwork",
    "Plan",
    "PlanError",
    "RecipeError",
    "Results",
    "ResultsError",
    "RobustModel",
    "Scale",
    "Shift",
    "SubsenseError",
    "TrainingError",
    "UnmatchedPattern",
    "UnsupportedLayer",
    "UntrainedCombination",
    "WriteError",
    "adapt",
    "calibrate",
    "collect_examples",
    "draw_present",
    "evaluate",
    "finetune",
    "fold",
    "load",
    "plan",
    "prepare",
    "report",
    "save",
    "train",
    "train_dedicated",
]
