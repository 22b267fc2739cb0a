"""Serving: the worker by itself, the gate by itself, and a server that a client talks to while its sets change."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subsense as ss
from networks import TOWERS, draw, make, with_sets

pytest.importorskip("litserve", reason="needs the extra subsense[serve]")
pytestmark = pytest.mark.filterwarnings("ignore")

INPUTS = draw(TOWERS, rows=6)


def model(folder: Path | None = None) -> ss.RobustModel:
    network, arguments = make("towers")
    return with_sets(ss.adapt(network, **arguments)) if folder is None else ss.load(folder, network)


def worker(folder: Path | None = None, **options: Any) -> Any:
    from subsense.integrations.serving.api import RobustAPI, by_combination

    api = RobustAPI(partial(model, folder), by_combination(["left", "right", "left+right"]), folder, **options)
    api.setup("cpu")
    return api


def serve(api: Any, *payloads: Any) -> list[dict[str, Any]]:
    return [
        api.encode_response(one)
        for one in api.unbatch(api.predict(api.batch([api.decode_request(p) for p in payloads])))
    ]


def payload(row: int, *names: str) -> dict[str, Any]:
    return {"inputs": {name: INPUTS[name][row].tolist() for name in names}}


def expected(row: int, *names: str, robust: ss.RobustModel | None = None) -> list[float]:
    with torch.no_grad():
        return (robust or model())({name: INPUTS[name][row : row + 1] for name in names})[0].tolist()


def test_rows_of_one_batch_that_lack_different_things() -> None:
    answers = serve(worker(), payload(0, "left"), payload(1, "right"), payload(2, "left", "right"))
    assert [one["present"] for one in answers] == ["left", "right", "left+right"]
    for row, names in enumerate((["left"], ["right"], ["left", "right"])):
        assert answers[row]["output"] == pytest.approx(expected(row, *names), abs=1e-6)


def test_a_row_that_is_refused_does_not_take_its_batch_along() -> None:
    api = worker()
    bad = [{"inputs": {"lefd": [1.0]}}, {"inputs": {"left": [1.0, 2.0]}}, {"inputs": {}}, {"left": [0.0] * 4},
           {"inputs": {"left": [float("nan")] * 4}}, {"inputs": {"left": [[1.0], [2.0, 3.0]]}}]  # fmt: skip
    answers = serve(api, payload(0, "left"), *bad, payload(1, "right"))
    assert answers[0]["output"] == pytest.approx(expected(0, "left"), abs=1e-6)
    assert answers[-1]["output"] == pytest.approx(expected(1, "right"), abs=1e-6)
    said = [one["error"] for one in answers[1:-1]]
    assert "unknown modality 'lefd'" in said[0]
    assert "Did you mean 'left'?" in said[0]
    assert "expected size 4 on axis 1" in said[1]
    assert "all modalities are missing" in said[2]
    assert 'expected {"inputs"' in said[3]
    assert "NaN or infinity" in said[4]
    assert "rows of equal length" in said[5]
    assert api.counts.of("refused") == 6
    assert api.counts.of("left") == api.counts.of("right") == 1


def test_a_combination_without_a_set_is_refused_alone() -> None:
    api = worker()
    api.robust.router.trained_rows = frozenset({0})
    answers = serve(api, payload(0, "left"), payload(0, "right"))
    assert answers[0]["output"] == pytest.approx(expected(0, "left"), abs=1e-6)
    assert "no adapter set was trained for right" in answers[1]["error"]


def test_arrays_in_base64() -> None:
    file = io.BytesIO()
    np.save(file, INPUTS["left"][0].numpy())
    given = {"inputs": {"left": {"npy": base64.b64encode(file.getvalue()).decode()}}}
    assert serve(worker(), given)[0]["output"] == pytest.approx(expected(0, "left"), abs=1e-6)
    assert "not an array" in serve(worker(), {"inputs": {"left": {"npy": "AAAA"}}})[0]["error"]


def test_new_sets_are_taken_up_and_broken_ones_are_not(tmp_path: Path) -> None:
    robust = model()
    ss.save(robust, tmp_path)
    api = worker(tmp_path)
    assert serve(api, payload(0, "left"))[0]["output"] == pytest.approx(expected(0, "left"), abs=1e-6)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.mul_(-1.0)
    ss.save(robust, tmp_path)
    fresh = expected(0, "left", robust=robust)
    assert serve(api, payload(0, "left"))[0]["output"] == pytest.approx(fresh, abs=1e-6)
    assert api.counts.of("reloaded") == 1
    (tmp_path / "manifest.json").write_text("{}")
    assert serve(api, payload(0, "left"))[0]["output"] == pytest.approx(fresh, abs=1e-6)
    assert api.counts.of("reloaded") == 1


# ---- the whole server


def post(url: str, data: Any, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_a_server_answers_refuses_counts_and_loses_nothing_while_sets_change(own: Path) -> None:
    command = [sys.executable, "-m", "subsense"]
    subprocess.run([*command, "train", own.name], cwd=own.parent, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([*command, "serve", own.name, "--port", str(port)], cwd=own.parent)
    try:
        _wait(url)
        status, said = post(f"{url}/predict", {"inputs": {"left": [1.0, 2.0, 3.0]}})
        assert status == 200, said
        status, said = post(f"{url}/predict", {"inputs": {"lift": [1.0, 2.0, 3.0]}})
        assert (status, "Did you mean 'left'?" in said["error"]) == (422, True)
        for body, kind, expected in [
            (b"{}", "application/x-www-form-urlencoded", 415),
            (b"{", "application/json", 422),
        ]:
            status, said = post(f"{url}/predict", body, kind)
            assert (status, "JSON" in said["error"]) == (expected, True)
        subprocess.run(
            [*command, "train", own.name, "--set", "seed=0"], cwd=own.parent, check=True, capture_output=True
        )
        with ThreadPoolExecutor(8) as clients:
            bodies = [{"inputs": {"left": [1.0, 2.0, 3.0]} if row % 2 else {"right": [1.0, 2.0]}} for row in range(60)]
            answers = list(clients.map(lambda body: post(f"{url}/predict", body), bodies))
        assert [status for status, _ in answers] == [200] * 60
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as page:
            text = page.read().decode()
        assert 'subsense_rows_total{present="left"} 31' in text
        assert 'subsense_rows_total{present="right"} 30' in text
        assert "subsense_refused_total 1" in text
        assert "subsense_reloads_total 1" in text
    finally:
        server.terminate()
        server.wait(60)
    with socket.socket() as gone, pytest.raises(ConnectionRefusedError):  # nothing is left behind that answers
        gone.connect(("127.0.0.1", port))


def _wait(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not come up")
