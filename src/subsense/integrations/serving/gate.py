"""What stands before the server: what can't be read or is refused answers so, and ``/metrics`` says what was served."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from subsense.integrations.serving.api import REFUSED, RELOADED, Counts

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
REFUSAL = b'{"error":'
"""How the answer of a refused row begins, and no other."""
JSON, PLAIN = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")
"""What clients call a body where nobody says otherwise, and LitServe reads as the fields of a form."""


class Gate:
    """Answer ``/metrics`` and bodies that are no JSON, and give a refused row the status that says so.

    Args:
        app: the server behind it.
        counts: shared with the workers.
    """

    def __init__(self, app: Any, counts: Counts) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == "/metrics":
            await _answer(send, metrics(self.counts).encode(), kind=PLAIN)
        elif scope["type"] == "http" and scope["method"] == "POST" and (kind := _kind(scope)).startswith(FORMS):
            why = f"expected JSON, but the request says Content-Type: {kind.decode('latin-1')}"
            await _refuse(send, 415, f"{why}; send the header Content-Type: application/json")
        elif scope["type"] == "http":
            body = _Body(receive)
            await self.app(scope, body, _Refusals(send, body))
        else:
            await self.app(scope, receive, send)


class _Body:
    """Pass a request's body on, and keep it for the case that it can't be read."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.parts = receive, [b""]

    async def __call__(self) -> Message:
        message = await self.receive()
        self.parts.append(message.get("body", b""))
        return message

    def fault(self) -> str:
        """Say why it is no JSON; empty where it is."""
        try:
            json.loads(b"".join(self.parts))
        except (ValueError, RecursionError) as error:
            return f"expected a body in JSON, but it can't be read: {error}"
        return ""


class _Refusals:
    """Hold an answer's head back until its body tells whether it is a refusal."""

    def __init__(self, send: Send, body: _Body) -> None:
        self.send, self.body, self.head, self.is_answered = send, body, None, False

    head: Message | None

    async def __call__(self, message: Message) -> None:
        if self.is_answered:
            return
        if message["type"] == "http.response.start":
            if message["status"] == 500 and (fault := self.body.fault()):
                self.is_answered = True
                await _refuse(self.send, 422, fault)
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


def _kind(scope: Message) -> bytes:
    """Give the header that says what the body is; empty where there is none."""
    return next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"").strip().lower()


async def _refuse(send: Send, status: int, why: str) -> None:
    await _answer(send, json.dumps({"error": why}).encode(), status)


async def _answer(send: Send, body: bytes, status: int = 200, kind: bytes = JSON) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})
