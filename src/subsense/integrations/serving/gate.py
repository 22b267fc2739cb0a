"""What stands before the server: a refused row answers with 422, and ``/metrics`` says what was served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from subsense.integrations.serving.api import REFUSED, RELOADED, Counts

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
REFUSAL = b'{"error":'
"""How the answer of a refused row begins, and no other."""


class Gate:
    """Answer ``/metrics``, and give a refused row the status that says so.

    Args:
        app: the server behind it.
        counts: shared with the workers.
    """

    def __init__(self, app: Any, counts: Counts) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == "/metrics":
            await _answer(send, metrics(self.counts).encode())
        elif scope["type"] == "http":
            await self.app(scope, receive, _Refusals(send))
        else:
            await self.app(scope, receive, send)


class _Refusals:
    """Hold an answer's head back until its body tells whether it is a refusal."""

    def __init__(self, send: Send) -> None:
        self.send, self.head = send, None

    head: Message | None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head = message
            return
        if self.head is not None:
            refused = message.get("body", b"").startswith(REFUSAL)
            await self.send(self.head | {"status": 422} if refused else self.head)
            self.head = None
        await self.send(message)


def metrics(counts: Counts) -> str:
    """Write the counters as Prometheus reads them.

    >>> counts = Counts(["rgb", REFUSED, RELOADED])
    >>> counts.add("rgb", 3)
    >>> print(metrics(counts))
    # TYPE subsense_rows_total counter
    subsense_rows_total{present="rgb"} 3
    # TYPE subsense_refused_total counter
    subsense_refused_total 0
    # TYPE subsense_reloads_total counter
    subsense_reloads_total 0
    <BLANKLINE>
    """
    rows = [name for name in counts.names if name not in (REFUSED, RELOADED)]
    lines = ["# TYPE subsense_rows_total counter"]
    lines += [f'subsense_rows_total{{present="{name}"}} {counts.of(name)}' for name in rows]
    lines += ["# TYPE subsense_refused_total counter", f"subsense_refused_total {counts.of(REFUSED)}"]
    lines += ["# TYPE subsense_reloads_total counter", f"subsense_reloads_total {counts.of(RELOADED)}"]
    return "\n".join(lines) + "\n"


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
