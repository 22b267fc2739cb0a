"""docs/reliability.md promises nothing that no test proves."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")


def existing() -> set[str]:
    sources = (path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(?:[\w/.]*::)?(test_\w+)`", TEXT))
    assert len(named) > 20
    assert named <= existing(), f"no such tests: {sorted(named - existing())}"


def test_every_test_of_a_silent_fault_is_named() -> None:
    faults = {name for name in existing() if re.match(r"test_fault_\d\d_", name)}
    assert {name[:13] for name in faults} == {f"test_fault_{number:02}" for number in range(1, 16)}
    assert faults <= set(re.findall(r"test_\w+", TEXT))
