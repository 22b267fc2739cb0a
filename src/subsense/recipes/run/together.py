"""One recipe in several processes, as torchrun, accelerate launch and Ray Train start them: the first one writes."""

from __future__ import annotations

from collections.abc import Callable

from subsense.recipes.progress import is_first, num_processes
from subsense.training.distributed import Processes
from subsense.training.options import TrainOptions


def by_first(work: Callable[[], object]) -> None:
    """Let the first process do something, while the others wait until it is done; a single one just does it.

    >>> by_first(lambda: print("written"))
    written
    """
    if is_first():
        work()
    if num_processes() > 1:
        Processes(TrainOptions.of({}, lr=1.0)).wait()
