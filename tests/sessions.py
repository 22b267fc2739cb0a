"""Run the sessions of a page in docs as its reader would, and compare what they print with what the page shows."""

import doctest
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
NOT_WORDS = re.compile(r"[\d.,%<>A-Z -]+|torch \S+")
NUMBER = re.compile(r"-?\d+\.\d+")
COUNT = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.])")
FINGERPRINT = re.compile(r"\b(xxh3:)?[0-9a-f]{12}\b")
TOLERANCE = 6.0  # points: another processor trains to other last digits


class Checker(doctest.OutputChecker):
    """Compare words and counts (`2,004`) exactly, and numbers with a fraction within a tolerance."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if "tensor([" in want:  # what the digits are read as, most of it
            return len(want.split()) == len(got.split())
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (want, got)]
        near = len(numbers[0]) == len(numbers[1]) and all(
            abs(one - other) <= TOLERANCE for one, other in zip(*numbers, strict=True)
        )
        words = [NOT_WORDS.sub(" ", FINGERPRINT.sub("", text)) for text in (want, got)]
        counts = [COUNT.findall(text) for text in (want, got)]
        return near and counts[0] == counts[1] and super().check_output(*words, optionflags)


def python_blocks(name: str) -> list[str]:
    """Give the blocks of Python of a page in docs, in order."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{name}.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(page: Path, text: str | None = None) -> doctest.TestResults:
    """Run all sessions of a page, one after the other in one namespace."""
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text("utf-8") if text is None else text, re.DOTALL))
    session = doctest.DocTestParser().get_doctest(blocks, {}, page.stem, str(page), 0)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(session)
    return runner.summarize()
