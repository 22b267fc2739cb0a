"""What the gate answers by itself: a body that is no JSON, or is called a form."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("litserve")

from subsense.integrations.serving.api import by_combination
from subsense.integrations.serving.gate import Gate


async def server(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer as LitServe does: what fails in it gets 500, whoever is to blame."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    try:
        status, said = 200, {"output": json.loads(body)["inputs"]["left"]}
    except Exception:
        status, said = 500, {"detail": "Internal server error"}
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


def post(body: bytes, kind: str | None) -> tuple[int, dict[str, Any]]:
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    parts = iter([{"body": body[:5], "more_body": True}, {"body": body[5:]}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", **next(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Gate(server, by_combination(["left"]))(scope, receive, send))
    head, *bodies = sent
    return head["status"], json.loads(b"".join(one["body"] for one in bodies))


GOOD = b'{"inputs": {"left": [1.0]}}'


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", None])
def test_json_passes(kind: str | None) -> None:
    assert post(GOOD, kind) == (200, {"output": [1.0]})


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "Application/X-WWW-Form-Urlencoded"],
)
def test_what_calls_itself_a_form_is_told_the_header(kind: str) -> None:
    status, said = post(GOOD, kind)
    assert status == 415
    assert said["error"].startswith("expected JSON, but the request says Content-Type: " + kind.lower())
    assert said["error"].endswith("send the header Content-Type: application/json")


@pytest.mark.parametrize("body", [b"", b'{"inputs": ', b"inputs=1", b"\xff\xfe\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_told_so(body: bytes) -> None:
    status, said = post(body, "application/json")
    assert (status, said["error"].startswith("expected a body in JSON, but it can't be read: ")) == (422, True)


def test_a_fault_of_the_server_stays_one() -> None:
    assert post(b'{"inputs": {}}', "application/json") == (500, {"detail": "Internal server error"})
