"""The face of the package: its public names, and what importing it costs."""

import json
import os
import subprocess
import sys

import pytest

import subsense

VERBS = {
    "adapt",
    "collect_examples",
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
}
NOUNS = {
    "AttentionClass",
    "Combination",
    "Constant",
    "Distill",
    "LayerClass",
    "Mean",
    "Modalities",
    "Plan",
    "Results",
    "RobustModel",
}
METHODS = {"BitFit", "LoRA", "Norm", "SSF", "Scale", "Shift"}
ERRORS = {
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

IMPORT = """
import json, sys, time
import torch
start = time.process_time()
import subsense
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def import_in_new_process() -> tuple[float, set[str]]:
    """Measure what `import subsense` adds to `import torch`: CPU seconds, and the top-level modules loaded at the end.

    CPU time is what the clock shows on an idle machine, and stays so on a busy one. Bytecode is kept, as it is for an
    installed package.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True, timeout=120, env=env
    )
    found = json.loads(run.stdout)
    return found["seconds"], set(found["modules"])


def test_public_names_are_the_promised_ones() -> None:
    assert set(subsense.__all__) == PUBLIC_NAMES
    assert len(subsense.__all__) == len(PUBLIC_NAMES), "a name is listed twice"


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(subsense, name)
    assert isinstance(value, str) or value.__doc__, f"subsense.{name} has no docstring"


def test_import_loads_nothing_heavy() -> None:
    _, modules = import_in_new_process()
    assert "subsense" in modules
    assert not (loaded := modules & HEAVY), f"import subsense also imports {sorted(loaded)}"


def test_import_costs_little_more_than_torch() -> None:
    # Noise only ever adds time, so one good run out of five is proof.
    seconds = []
    while len(seconds) < 5 and (not seconds or min(seconds) > 0.2):
        seconds.append(import_in_new_process()[0])
    assert min(seconds) <= 0.2, f"import subsense takes {min(seconds):.2f} s more than import torch"
