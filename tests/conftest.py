"""What every test may rely on: one thread, and the real data where it is at hand."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).parent.parent

# Before torch is imported; processes that tests start inherit it. The layers here only wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no fault of a test: nothing is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of read-only material (`shared / "data" / "utd_mhad"`), or skip the test that needs it."""
    folder = Path(os.environ.get("SUBSENSE_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the real data, and {folder} is no folder: set SUBSENSE_SHARED to where it is")
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a folder with a user's own network, data and recipe; give the recipe."""
    from command_line import OWN_CODE, OWN_RECIPE  # it imports torch, before which the threads must be set

    (tmp_path / "own_code.py").write_text(OWN_CODE, "utf-8")
    (tmp_path / "own.yaml").write_text(OWN_RECIPE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own.yaml"
    sys.modules.pop("own_code", None)
