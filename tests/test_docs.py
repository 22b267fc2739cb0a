"""The site builds without a warning, and holds an entry for every public name and every error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import subsense

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
REFERENCE = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
PUBLIC = {name: getattr(subsense, name) for name in subsense.__all__}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}
ERRORS = [name for name, value in CLASSES.items() if issubclass(value, Exception)]
VERBS = sorted(PUBLIC.keys() - CLASSES.keys())
EXPERIMENTS = [f"experiments/{page.name}" for page in sorted((DOCS / "experiments").glob("*.md"))]


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    verbs = (tmp_path / "site" / "reference" / "verbs.html").read_text("utf-8")
    assert 'class="gp"' in verbs, "the doctests are not shown as sessions"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in ERRORS])
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"^::: subsense\.{name}$", REFERENCE, re.MULTILINE), f"docs/reference: no ::: subsense.{name}"


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_has_its_entry(name: str) -> None:
    if name != "SubsenseError":
        assert f"\n## {name}\n" in (DOCS / "troubleshooting.md").read_text("utf-8")


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_what_it_takes_and_shows_it(name: str) -> None:
    text = getattr(subsense, name).__doc__
    for part in ("Args:", "Raises:", ">>>"):
        assert part in text, f"subsense.{name}: no {part} in its docstring"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in navigation


@pytest.mark.parametrize("page", ["performance.md", "results.md", *EXPERIMENTS])
def test_a_page_of_measurements_opens_with_its_result(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    assert text.split("\n", 2)[2].startswith("**Result.**")
