"""`subsense new`: what it writes runs as it stands; `subsense --version`."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from command_line import fail, succeed


def test_what_it_writes_trains_evaluates_and_passes_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrist_of_mine/wrist_of_mine.yaml" in succeed("new", "wrist_of_mine")
    monkeypatch.chdir(tmp_path / "wrist_of_mine")
    command = [sys.executable, "-m", "subsense"]
    for verb in ("validate", "plan", "train", "evaluate"):
        done = subprocess.run([*command, verb, "wrist_of_mine.yaml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "mean (incomplete)" in done.stdout
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], capture_output=True, text=True
    )
    assert "3 passed" in own.stdout, own.stdout


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert "mine is there already" in fail(2, "new", "mine")


@pytest.mark.parametrize(
    ("name", "said"), [("My-Net", "small letters"), ("class", "small letters"), ("torch", "has a")]
)
def test_a_name_that_cannot_be_imported_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fail(2, "new", name)
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_shown() -> None:
    assert succeed("--version") == f"subsense {version('subsense')}, torch {version('torch')}\n"
