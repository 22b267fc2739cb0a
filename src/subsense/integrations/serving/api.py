"""What a worker of the server does: rows that lack different things, in one pass; new adapter sets without a stop.

Annotations are no strings here: LitServe reads that of `decode_request` to know that the body is JSON.
"""

import copy
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litserve as ls
import torch
from fastapi import Request

from subsense.errors import SubsenseError
from subsense.integrations.serving.answering import answer_rows
from subsense.integrations.serving.requests import Row, read_row
from subsense.model.checkpoint import load
from subsense.model.manifest import MANIFEST
from subsense.model.robust import RobustModel

LOG = logging.getLogger("subsense.serving")


@dataclass(frozen=True)
class Refused:
    """Be the answer to a row that can't be served: refused alone, whatever else is in its batch."""

    why: str


class Counts:
    """Count rows served for each combination, refused rows and reloads; shared by server and workers."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._numbers: Any = multiprocessing.get_context("spawn").Array("Q", len(names))

    def add(self, name: str, number: int = 1) -> None:
        """Add to one of the counters."""
        with self._numbers.get_lock():
            self._numbers[self.names.index(name)] += number

    def of(self, name: str) -> int:
        """Give one of the counters."""
        return int(self._numbers[self.names.index(name)])


REFUSED, RELOADED = "refused", "reloaded"


class RobustAPI(ls.LitAPI):  # type: ignore[misc]  # LitServe has no types
    """Answer requests that lack modalities; rows of a batch may each lack something else.

    Args:
        make: makes the adapted network, in each worker; a function of a module, or a `partial` of one.
        counts: of the combinations' names, `REFUSED` and `RELOADED`.
        folder: where the adapter sets lie. New sets there, as `subsense.save` writes them, are taken up before the
            next batch; a folder that can't be read is logged, and the sets that were loaded go on.
        max_batch_size: rows that run together.
        batch_timeout: seconds to wait for them.
    """

    def __init__(
        self,
        make: Callable[[], RobustModel],
        counts: Counts,
        folder: Path | None = None,
        max_batch_size: int = 16,
        batch_timeout: float = 0.005,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self.make, self.counts, self.folder = make, counts, folder

    def setup(self, device: Any) -> None:
        """Make the network in this worker."""
        self.robust = self.make().to(device).eval()
        self.where = torch.device(device)
        self._seen = self._stamp()

    def decode_request(self, request: Request, **_: Any) -> Row | Refused:
        """Read a row of JSON data; what can't be read is refused by its own answer, no error that its batch shares."""
        try:
            return read_row(self.robust.modalities, request)
        except SubsenseError as error:
            return Refused(str(error))

    def batch(self, inputs: Sequence[Row | Refused]) -> Sequence[Row | Refused]:
        """Give the rows as they are: `predict` puts together what has equal shapes."""
        return inputs

    def predict(self, x: Any, **_: Any) -> Any:
        """Answer each row."""
        self._reload()
        rows = list(x) if self.max_batch_size > 1 else [x]
        read = [row for row in rows if not isinstance(row, Refused)]
        served = iter(answer_rows(self.robust, read, self.where))
        answers = [{"error": row.why} if isinstance(row, Refused) else next(served) for row in rows]
        for answer in answers:
            self.counts.add(REFUSED if "error" in answer else answer["present"])
        return answers if self.max_batch_size > 1 else answers[0]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give an answer for each row."""
        return output

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Give the answer, plain data already."""
        return output

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / MANIFEST).stat() if self.folder else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_ino)

    def _reload(self) -> None:
        stamp = self._stamp()
        if stamp is None or stamp == self._seen or self.folder is None:
            return
        self._seen = stamp
        try:
            with self.robust.no_adapters():
                network = copy.deepcopy(self.robust.network)
            fresh = load(self.folder, network, call=self.robust.call.function).to(self.where).eval()
        except SubsenseError as error:
            LOG.error("%s: not taken up, the sets that were loaded go on: %s", self.folder, error)
            return
        self.robust = fresh
        self.counts.add(RELOADED)


def by_combination(robust_names: Sequence[str]) -> Counts:
    """Make the counters for a model's combinations."""
    return Counts([*robust_names, REFUSED, RELOADED])
