"""Write a run's tables into a page, between `<!-- table -->` (growth, size) and the next `<!-- end -->`.

python -m benchmarks.speed.page build/speed/speed.json docs/performance.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.speed.table import parts


def fill(page: str, measured: dict[str, str]) -> str:
    """Replace what a page holds between the marks of each part; a part that was not measured stays as it is."""
    for name, text in measured.items():
        page, found = re.subn(
            rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", lambda _, text=text: f"\n{text}\n\n", page, flags=re.DOTALL
        )
        if found != 1:
            sys.exit(f"expected <!-- {name} --> ... <!-- end --> once in the page, found it {found} times")
    return page


if __name__ == "__main__":
    source, page = map(Path, sys.argv[1:])
    page.write_text(fill(page.read_text(), parts(json.loads(source.read_text()))))
