"""The README's sessions run, and print what it shows."""

import doctest
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
NOT_WORDS = re.compile(r"[\d.,%<>A-Z ]+|torch \S+")
NUMBER = re.compile(r"-?\d+\.\d+")
FINGERPRINT = re.compile(r"\b(xxh3:)?[0-9a-f]{12}\b")
TOLERANCE = 6.0  # points: another processor trains to other last digits


class Checker(doctest.OutputChecker):
    """Compare words exactly, and numbers with a fraction within a tolerance."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if "tensor([" in want:  # what the digits are read as, most of it
            return len(want.split()) == len(got.split())
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (want, got)]
        near = len(numbers[0]) == len(numbers[1]) and all(
            abs(one - other) <= TOLERANCE for one, other in zip(*numbers, strict=True)
        )
        words = [NOT_WORDS.sub(" ", FINGERPRINT.sub("", text)) for text in (want, got)]
        return near and super().check_output(*words, optionflags)


def test_the_sessions_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = README.read_text("utf-8").split("## A session")[1]
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))
    session = doctest.DocTestParser().get_doctest(blocks, {}, "README", str(README), 0)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(session)
    assert runner.summarize().failed == 0
    assert runner.summarize().attempted > 15
