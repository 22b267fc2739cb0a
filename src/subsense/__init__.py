"""Make a pretrained multimodal PyTorch network work with any subset of its modalities.

Every weight of the network stays as it is; small adapter sets are trained for the combinations of available modalities,
chosen at inference by what is present, and folded into plain networks for deployment (arXiv 2310.03986).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subsense.adapters import SSF, BitFit, Common, LoRA, Norm, Scale, Shift
    from subsense.adapters.layers.declare import AttentionClass, LayerClass
    from subsense.calibration import CalibrationReport, calibrate
    from subsense.deployment.all_sets import export
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
    from subsense.model.confidence import Confidence, Prediction, Trust
    from subsense.model.robust import RobustModel
    from subsense.monitoring.audit import audit
    from subsense.monitoring.audit_report import AuditReport
    from subsense.monitoring.confidence.fit import confidence
    from subsense.monitoring.monitor import Monitor
    from subsense.training import Distill, train
    from subsense.training.baselines import finetune, train_dedicated
    from subsense.training.sampling import draw_present

__version__ = "0.1.0"

__all__ = [
    "SSF",
    "AttentionClass",
    "AuditReport",
    "BitFit",
    "CalibrationError",
    "CalibrationReport",
    "CheckpointError",
    "Collate",
    "Combination",
    "Common",
    "Confidence",
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
    "Monitor",
    "NonFiniteLoss",
    "Norm",
    "OtherModalities",
    "OtherNetwork",
    "Plan",
    "PlanError",
    "Prediction",
    "RecipeError",
    "Results",
    "ResultsError",
    "RobustModel",
    "Scale",
    "Shift",
    "SubsenseError",
    "TrainingError",
    "Trust",
    "UnmatchedPattern",
    "UnsupportedLayer",
    "UntrainedCombination",
    "WriteError",
    "adapt",
    "audit",
    "calibrate",
    "collect_examples",
    "confidence",
    "draw_present",
    "evaluate",
    "export",
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

_PLACES = {
    "subsense.adapters": ("BitFit", "Common", "LoRA", "Norm", "SSF", "Scale", "Shift"),
    "subsense.adapters.layers.declare": ("AttentionClass", "LayerClass"),
    "subsense.calibration": ("CalibrationReport", "calibrate"),
    "subsense.deployment.all_sets": ("export",),
    "subsense.deployment.fold": ("fold", "prepare"),
    "subsense.errors": (
        "CalibrationError",
        "CheckpointError",
        "DamagedFile",
        "DataError",
        "FactoryError",
        "FoldError",
        "ForeignTensor",
        "InputError",
        "LayerNeverCalled",
        "MetricError",
        "MissingFile",
        "ModalityError",
        "NonFiniteLoss",
        "OtherModalities",
        "OtherNetwork",
        "PlanError",
        "RecipeError",
        "ResultsError",
        "SubsenseError",
        "TrainingError",
        "UnmatchedPattern",
        "UnsupportedLayer",
        "UntrainedCombination",
        "WriteError",
    ),
    "subsense.evaluation.evaluate": ("evaluate",),
    "subsense.evaluation.reporting": ("collect_examples", "report"),
    "subsense.evaluation.results": ("Results",),
    "subsense.injection.planning": ("Plan", "plan"),
    "subsense.modalities": ("Combination", "Modalities"),
    "subsense.modalities.collating": ("Collate", "Incomplete"),
    "subsense.modalities.filling": ("Constant", "Mean"),
    "subsense.model.adapt": ("adapt",),
    "subsense.model.checkpoint": ("load", "save"),
    "subsense.model.confidence": ("Confidence", "Prediction", "Trust"),
    "subsense.model.robust": ("RobustModel",),
    "subsense.monitoring.audit": ("audit",),
    "subsense.monitoring.audit_report": ("AuditReport",),
    "subsense.monitoring.confidence.fit": ("confidence",),
    "subsense.monitoring.monitor": ("Monitor",),
    "subsense.training": ("Distill", "train"),
    "subsense.training.baselines": ("finetune", "train_dedicated"),
    "subsense.training.sampling": ("draw_present",),
}
"""Module -> its public names, each imported when it is first used: what a command's help needs is no torch."""

if not TYPE_CHECKING:  # to a type checker the names above are all there are

    def __getattr__(name: str) -> Any:
        for module, names in _PLACES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(module), name)
                return value
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")  # a package, such as subsense.evaluation
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
