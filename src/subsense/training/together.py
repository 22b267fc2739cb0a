"""What joint training says where the rows of a batch, each with a combination of its own, can't run together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from subsense.errors import InputError, TrainingError
from subsense.routing.placement import NotGrouped
from subsense.training.run import Run


@contextmanager
def running_together(run: Run) -> Iterator[None]:
    """Give advice that can be followed in training, where nobody but the run itself puts rows into batches.

    Raises:
        TrainingError: rows that must run in groups, of which the outputs can't be put together.
    """
    try:
        yield
    except InputError as error:
        refused = error.__cause__
        if not isinstance(refused, NotGrouped):
            raise
        ways = " or ".join(filter(None, [refused.way, run.trainee.apart()]))
        graded = " and without degrade" if run.degrader else ""
        why = f". Groups are needed because of this: {refused.why}" if refused.why else ""
        raise TrainingError(
            "in joint training each row draws a combination of its own, and rows of this batch must run in groups, "
            f"but {refused.fact}; {ways}{graded}{why}"
        ) from error
