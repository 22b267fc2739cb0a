"""Ray Serve answers by several folders of adapter sets of one network. Needs ``subsense[ray]``."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from subsense.errors import CheckpointError, SubsenseError
from subsense.integrations.serving.answering import answer_rows
from subsense.integrations.serving.requests import read_row
from subsense.modalities.calling import CallFunction
from subsense.model.checkpoint import load
from subsense.model.manifest import MANIFEST
from subsense.model.robust import RobustModel

if TYPE_CHECKING:
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

Asked = tuple[str, Any]
"""A folder's name, and what a request holds."""


def application(
    make: Callable[[], nn.Module],
    root: str | Path,
    default: str,
    *,
    call: CallFunction | None = None,
    most: int = 4,
    max_batch_size: int = 16,
    batch_timeout: float = 0.005,
    **options: Any,
) -> serve.Application:
    """Make a Ray Serve application: one network, and the adapter sets of several folders.

    A request is that of `subsense serve`: ``{"inputs": {modality: numbers}}``, and what it lacks is missing. Its header
    ``serve_multiplexed_model_id`` names the folder; Ray sends it to a replica that has loaded these sets already. The
    weights of the network are in memory once in each replica, whatever the number of folders. A row that can't be
    served is answered with status 422 and the library's message.

    Args:
        make: makes the network, in each replica; a function of a module, or a `partial` of one.
        root: holds the folders, each as `subsense.save` writes it.
        default: the folder of requests that name none.
        call: the function that calls the network, where that was one.
        most: folders that a replica holds at a time.
        max_batch_size: rows that run together.
        batch_timeout: seconds to wait for them.
        options: of `ray.serve.deployment`: ``num_replicas``, ``ray_actor_options``, ...

    ::

        from ray import serve
        serve.run(application(make_network, "sets", default="2026-11"))
    """
    from ray import serve

    batching = {"max_batch_size": max_batch_size, "batch_wait_timeout_s": batch_timeout}
    deployment = serve.deployment(_limited(most, batching), name="subsense", **options)
    return deployment.bind(make, Path(root).resolve(), default, call)


class Replica:
    """Hold the network once, and the sets of some folders; `_limited` lets Ray keep few sets, and batch rows."""

    def __init__(self, make: Callable[[], nn.Module], root: Path, default: str, call: CallFunction | None) -> None:
        self.network, self.root, self.default, self.call = make(), root, default, call

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request."""
        from ray import serve
        from starlette.responses import JSONResponse

        folder = serve.get_multiplexed_model_id() or self.default
        batched: Any = self.answer
        try:
            payload = await request.json()
            await self.sets(folder)
        except (SubsenseError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 422)
        answer = await batched((folder, payload))
        return JSONResponse(answer, 422 if "error" in answer else 200)

    async def sets(self, folder: str) -> RobustModel:
        """Load a folder's sets."""
        return load(_inside(self.root, folder), sharing_weights(self.network), call=self.call).eval()

    async def answer(self, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Answer rows together, of each folder apart."""
        answers: list[dict[str, Any]] = [{}] * len(asked)
        by_folder: dict[str, list[int]] = defaultdict(list)
        for number, (folder, _) in enumerate(asked):
            by_folder[folder].append(number)
        for folder, numbers in by_folder.items():
            robust = await self.sets(folder)
            found = _answers(robust, [asked[number][1] for number in numbers])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers


def _limited(most: int, batching: dict[str, Any]) -> type[Replica]:
    """Give the class of a replica; Ray takes the limits when the class is made, and finds methods by their names."""
    from ray import serve

    sets, answer = serve.multiplexed(max_num_models_per_replica=most), serve.batch(**batching)
    return type("Replica", (Replica,), {"sets": sets(Replica.sets), "answer": answer(Replica.answer)})


def _answers(robust: RobustModel, payloads: Sequence[Any]) -> list[dict[str, Any]]:
    rows: dict[int, Any] = {}
    answers: list[dict[str, Any]] = [{}] * len(payloads)
    for number, payload in enumerate(payloads):
        try:
            rows[number] = read_row(robust.modalities, payload)
        except SubsenseError as error:
            answers[number] = {"error": str(error)}
    for number, answer in zip(rows, answer_rows(robust, list(rows.values()), torch.device("cpu")), strict=True):
        answers[number] = answer
    return answers


def _inside(root: Path, folder: str) -> Path:
    """Give a folder of sets by its name; raise `CheckpointError` for what is none of those in `root`."""
    known = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
    if folder not in known:
        raise CheckpointError(f"no adapter sets {folder!r}; there are {', '.join(known) or 'none'}")
    return root / folder


def sharing_weights(network: nn.Module) -> nn.Module:
    """Copy a network's modules, not its weights: adapted and detached on its own, it takes no memory.

    >>> network = nn.Linear(3, 2)
    >>> other = sharing_weights(network)
    >>> other is network, other.weight is network.weight
    (False, True)
    """
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
