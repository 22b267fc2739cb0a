#!/usr/bin/env bash
# Recordings of several sensors (XDF): a gap of 100 s in a slow stream is smoothed away, its samples move by 50 s.
#
# Expected   a sensor that drops out for a minute and comes back keeps the times at which it measured.
# Found      by default pyxdf lays one straight line through the time stamps between breaks, and a break is the longer
#            of one second and 500 samples. A stream of 4 Hz with a gap of 100 s has none: its stamps are off by up to
#            50 s; 10 Hz, 40 s: 20 s; 100 Hz, 4 s: 2 s. A line in the log says that the effective rate differs from the
#            stated one; nothing is raised. Just above 500 samples all stamps are right. dejitter_timestamps=False keeps
#            them always.
# With       pyxdf 1.17.5, numpy 2.3.5; 2026-11-27
# Matters    skin conductance, heart rate and temperature come at 1 to 10 Hz and drop out for such times; they're then
#            aligned with the video of another minute, and nothing is missing any more.
# Source     load_xdf's options jitter_break_threshold_seconds and _samples; the code takes the maximum of both.
# subsense   the page on data: read with dejitter_timestamps=False (or jitter_break_threshold_samples=1) where sensors
#            drop out.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "pyxdf==1.17.5" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import logging
import struct
from importlib.metadata import version

import numpy as np
import pyxdf

logging.disable(logging.CRITICAL)
print("pyxdf", version("pyxdf"), "numpy", np.__version__)


def chunk(tag, content):
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def as_text(fields):
    return "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())


def write(name, rate, times):
    info = "<?xml version='1.0'?><info>{}</info>"
    fields = {
        "name": "slow", "type": "X", "channel_count": 1, "nominal_srate": rate, "channel_format": "float32",
        "source_id": "s", "hostname": "h", "uid": "u", "session_id": "i", "created_at": 0,
    }  # fmt: skip
    stream = struct.pack("<I", 1)
    samples = b"".join(b"\x08" + struct.pack("<df", time, number) for number, time in enumerate(times))
    ends = {"first_timestamp": times[0], "last_timestamp": times[-1], "sample_count": len(times)}
    parts = [
        chunk(1, info.format("<version>1.0</version>").encode()),
        chunk(2, stream + info.format(as_text(fields)).encode()),
        chunk(3, stream + b"\x04" + struct.pack("<I", len(times)) + samples),
        chunk(6, stream + info.format(as_text(ends)).encode()),
    ]
    with open(name, "wb") as file:
        file.write(b"XDF:" + b"".join(parts))


def error(rate, gap, **options):
    minute = np.arange(60 * rate) / rate
    times = 1000 + np.concatenate([minute, minute + 60 + gap])
    write("a.xdf", rate, times)
    (stream,), _ = pyxdf.load_xdf("a.xdf", **options)
    return float(np.abs(stream["time_stamps"] - times).max())


for rate, gap in ((4, 100), (10, 40), (100, 4)):
    found = error(rate, gap), error(rate, 650 / rate), error(rate, gap, dejitter_timestamps=False)
    print(f"{rate:3} Hz, gap of {gap:3} s: off by {found[0]:.1f} s; not dejittered: {found[2]:.1f} s")
    assert abs(found[0] - gap / 2) < 0.3
    assert found[1] < 1e-6 and found[2] < 1e-6
PY
