"""The README's session and the pages' sessions run, and print what is shown."""

from pathlib import Path

import pytest

from sessions import run

REPOSITORY = Path(__file__).parent.parent
PAGES = ("tutorial", "loader", "training-loop", "degraded-input", "audit", "confidence")


def test_the_readmes_session_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = REPOSITORY / "README.md"
    results = run(page, page.read_text("utf-8").split("## A session")[1])
    assert results.failed == 0
    assert results.attempted > 15


@pytest.mark.parametrize("name", PAGES)
def test_a_pages_sessions_print_what_is_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = run(REPOSITORY / "docs" / f"{name}.md")
    assert results.failed == 0
    assert results.attempted > 10
