"""Put the worker and the gate into a LitServe server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import litserve as ls

from subsense.integrations.serving.api import RobustAPI, by_combination
from subsense.integrations.serving.gate import Gate
from subsense.model.robust import RobustModel


def make_server(
    make: Callable[[], RobustModel],
    combinations: Sequence[str],
    folder: Path | None = None,
    *,
    max_batch_size: int = 16,
    batch_timeout: float = 0.005,
    workers: int = 1,
    accelerator: str = "auto",
) -> ls.LitServer:
    """Make the server of an adapted network: POST ``/predict``, GET ``/metrics``, GET ``/health``.

    Args:
        make: makes the adapted network, in each worker.
        combinations: the names of all combinations, the complete one included, that are counted.
        folder: of the adapter sets; new ones there are taken up while it runs.
        max_batch_size: rows that run together, whatever each lacks.
        batch_timeout: seconds to wait for them.
        workers: processes on each device.
        accelerator: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    """
    counts = by_combination(combinations)
    api = RobustAPI(make, counts, folder, max_batch_size, batch_timeout)
    return ls.LitServer(
        api,
        accelerator=accelerator,
        workers_per_device=workers,
        middlewares=[(Gate, {"counts": counts})],
    )
