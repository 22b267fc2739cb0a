"""The wheel: everything in it, and enough to work alone in an empty environment."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src" / "subsense"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=REPOSITORY)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_code_and_package_data(wheel: Path) -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(PACKAGE.parent).as_posix() for path in sources} <= packed
    assert "subsense/py.typed" in packed
    for kind in (
        "recipes/shipped/*.yaml",
        "evaluation/reporting/**/*.html.j2",
        "evaluation/reporting/**/*.js",
        "evaluation/reporting/**/*.css",
    ):
        assert list(PACKAGE.glob(kind)), f"no {kind} in the source"


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"subsense", f"subsense-{version('subsense')}.dist-info"}


@pytest.mark.slow
def test_wheel_works_alone_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(bin / "python", "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", wheel, cwd=tmp_path)
    subsense = bin / "subsense"

    assert "demo" in run(subsense, "--help", cwd=tmp_path)
    assert "Usage" in run(subsense, "demo", "--help", cwd=tmp_path)
    assert "digits" in run(subsense, "ls", cwd=tmp_path)
    assert "folded: outputs differ by at most" in run(subsense, "demo", cwd=tmp_path)
    assert (tmp_path / "runs" / "demo" / "results.html").exists()
    run(
        bin / "python",
        "-c",
        "import subsense, subsense.testing, subsense.recipes, subsense.evaluation.reporting",
        cwd=tmp_path,
    )
    installed = run(bin / "python", "-c", "import subsense; print(subsense.__file__)", cwd=tmp_path)
    assert Path(installed.strip()).is_relative_to(tmp_path)
    run(bin / "python", "-m", "pip", "check", cwd=tmp_path)
