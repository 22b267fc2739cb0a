"""Each extra is enough for its integration: its tests and its page run in an environment with that extra alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TESTING = ("pytest", "hypothesis")
FOLDER = "tests/integrations"
PARTS = {
    "lightning": [f"{FOLDER}/test_lightning.py", f"{FOLDER}/test_pages.py::test_lightning"],
    "transformers": [
        f"{FOLDER}/test_trainer.py",
        f"{FOLDER}/test_transformers.py",
        f"{FOLDER}/test_pages.py::test_trainer",
    ],
    "hub": [f"{FOLDER}/test_hub.py"],
    "monai": [f"{FOLDER}/test_monai.py"],
    "serve": [f"{FOLDER}/test_serving.py", f"{FOLDER}/test_pages.py::test_serving"],
    "ray": [f"{FOLDER}/test_ray.py"],
    "onnx": [
        "tests/deployment/test_all_sets.py",
        "--deselect=tests/deployment/test_all_sets.py::test_every_architecture_that_exports",  # those of transformers
        "tests/deployment/test_deployment.py",
    ],
}


def run(*command: str | Path, timeout: int = 1500) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("extra", PARTS)
def test_an_extra_is_enough(extra: str, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", "constraints.txt"]
    run(*pip, f".[{extra}]", *TESTING)
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "-m", "slow or not slow", *PARTS[extra])
    assert " passed" in said
    assert "skipped" not in said, said
