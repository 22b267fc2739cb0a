"""The face of the package: its public names, and what importing it costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import subsense

VERBS = {
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
}
NOUNS = {
    "AttentionClass",
    "AuditReport",
    "CalibrationReport",
    "Collate",
    "Combination",
    "Confidence",
    "Constant",
    "Distill",
    "Incomplete",
    "LayerClass",
    "Mean",
    "Modalities",
    "Monitor",
    "Plan",
    "Prediction",
    "Results",
    "RobustModel",
    "Trust",
}
METHODS = {"BitFit", "Common", "LoRA", "Norm", "SSF", "Scale", "Shift"}
ERRORS = {
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
}
PUBLIC_NAMES = VERBS | NOUNS | METHODS | ERRORS

HEAVY = {
    "PIL",
    "accelerate",
    "jinja2",
    "matplotlib",
    "onnx",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "transformers",
    "typer",
    "yaml",
}

MOST_MODULES = 70

IMPORT = """
import json, sys
import torch
before = set(sys.modules)
import subsense
subsense.adapt
print(json.dumps({"all": sorted(sys.modules), "brought": sorted(set(sys.modules) - before)}))
"""


def import_in_new_process() -> tuple[set[str], set[str]]:
    """Give the top-level modules that `subsense.adapt` leaves loaded, and all modules beside torch's.

    Modules are counted, not seconds: `make bench` has the time, which depends on what else the machine does.
    """
    run = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    found = json.loads(run.stdout)
    return {name.partition(".")[0] for name in found["all"]}, set(found["brought"])


def test_public_names_are_the_promised_ones() -> None:
    assert set(subsense.__all__) == PUBLIC_NAMES
    assert len(subsense.__all__) == len(PUBLIC_NAMES), "a name is listed twice"


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(subsense, name)
    assert isinstance(value, str) or value.__doc__, f"subsense.{name} has no docstring"


def test_import_loads_nothing_heavy() -> None:
    modules, _ = import_in_new_process()
    assert "subsense" in modules
    assert not (loaded := modules & HEAVY), f"import subsense also imports {sorted(loaded)}"


def test_import_brings_few_modules() -> None:
    _, brought = import_in_new_process()
    assert len(brought) <= MOST_MODULES, f"import subsense brings {len(brought)} modules: {sorted(brought)}"


def test_names_are_imported_when_they_are_used() -> None:
    code = "import sys, subsense, subsense.cli; assert 'torch' not in sys.modules; print(sorted(subsense.__all__))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert set(dir(subsense)) >= PUBLIC_NAMES
    assert subsense.evaluation.metrics.METRICS  # packages too
    with pytest.raises(AttributeError, match="no attribute 'adaptt'"):
        subsense.adaptt  # type: ignore[attr-defined]  # noqa: B018


def test_a_type_checker_sees_what_is_imported_when_used() -> None:
    tree = ast.parse(Path(subsense.__file__).read_text())
    [checked] = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    seen = {(str(node.module), name.name) for node in checked.body if isinstance(node, ast.ImportFrom)
            for name in node.names}  # fmt: skip
    assert seen == {(module, name) for module, names in subsense._PLACES.items() for name in names}
    assert {name for _, name in seen} == set(subsense.__all__)
