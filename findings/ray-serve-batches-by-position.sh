#!/usr/bin/env bash
# Ray Serve's batches take names from the first request and values by position: one client's thermal is another's rgb.
#
# Expected   requests of different keywords are kept apart, or None stands for what a request lacks.
# Found      with @serve.batch, infer(rgb=1) and infer(thermal=20) that meet in a batch are run as rgb=[1, 20].
#            infer(rgb=1, thermal=10) and infer(thermal=20, rgb=2) are run as rgb=[1, 20], thermal=[10, 2]. No error in
#            both. Where one request has more keywords than the other, both fail with an AssertionError, the healthy
#            client's, too. A dict as result is handed out key by key.
# With       ray 2.60.0; the decorator within one process, with a stand-in for the replica's context (no cluster is
#            started); 2026-11-27
# Matters    clients leave out what they lack: that is what a server for missing modalities is for.
# Source     ray/serve/batching.py, _batch_args_kwargs: names are those of the first request's arguments, values by
#            index.
# subsense   has no plug for Ray Serve; whoever writes one takes a single argument, a dict, and makes the batch by
#            `ss.Collate`.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[serve]==2.60.0"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import asyncio
import logging
from types import SimpleNamespace
from unittest import mock

import ray
from ray import serve

logging.disable(logging.CRITICAL)
print("ray", ray.__version__)


@serve.batch(max_batch_size=2, batch_wait_timeout_s=5)
async def infer(rgb=None, thermal=None):
    return [{"rgb": rgb, "thermal": thermal}] * 2


@serve.batch(max_batch_size=2, batch_wait_timeout_s=5)
async def scored(row):
    return {"scores": [0.1, 0.9], "missing": [1, 0]}


async def together(function, *requests):
    return await asyncio.gather(*(function(**request) for request in requests), return_exceptions=True)


async def main():
    pairs = {
        "same keywords": ({"rgb": 1, "thermal": 10}, {"rgb": 2, "thermal": 20}),
        "one each": ({"rgb": 1}, {"thermal": 20}),
        "another order": ({"rgb": 1, "thermal": 10}, {"thermal": 20, "rgb": 2}),
        "one lacks": ({"rgb": 1, "thermal": 10}, {"rgb": 2}),
    }
    found = {name: await together(infer, *requests) for name, requests in pairs.items()}
    for name, results in found.items():
        print(f"{name:14} {pairs[name]} -> {results[0]!r}")
    parts = await together(scored, {"row": 1}, {"row": 2})
    print("a dict as result: client 1 gets", parts[0], "client 2 gets", parts[1])
    assert found["same keywords"][0] == {"rgb": [1, 2], "thermal": [10, 20]}
    assert found["one each"][0] == {"rgb": [1, 20], "thermal": None}
    assert found["another order"][0] == {"rgb": [1, 20], "thermal": [10, 2]}
    assert all(isinstance(result, AssertionError) for result in found["one lacks"])
    assert parts == ["scores", "missing"]


context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=8))
with mock.patch("ray.serve.get_replica_context", lambda: context):
    asyncio.run(main())
PY
