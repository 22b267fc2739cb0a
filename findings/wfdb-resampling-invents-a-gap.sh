#!/usr/bin/env bash
# WFDB: a gap that is read as NaN is filled by a line as soon as the signal is resampled.
#
# Expected   NaN stays NaN (as in rdrecord, which gives -32768 of the file as NaN), at least around the gap.
# Found      processing.resample_sig interpolates over NaN before it resamples, and says nothing: a gap of 100 samples
#            is gone, and half a wave of 50 uV becomes a slow line. A channel of NaN alone, which other formats take,
#            can't be written: ValueError.
# With       wfdb 4.3.1, numpy 2.3.5, scipy 1.15.3; 2026-11-27
# Matters    bringing modalities to one rate is the first step everywhere; afterwards no one can tell what was missing.
# Source     wfdb/processing/basic.py, resample_sig (and resample_singlechan, resample_multichan, which call it).
# subsense   the page on data: take `present` from the record before resampling.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "wfdb==4.3.1" "numpy==2.3.5" "scipy==1.15.3" "pandas==3.1.1"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import wfdb
import wfdb.processing

print("wfdb", wfdb.__version__, "numpy", np.__version__)
wave = 50 * np.sin(np.arange(300) / 5)
gap = wave.copy()
gap[100:200] = np.nan
wfdb.wrsamp("a", fs=100, units=["uV"], sig_name=["gap"], p_signal=gap[:, None], fmt=["16"])
read = wfdb.rdrecord("a").p_signal[:, 0]
half, _ = wfdb.processing.resample_sig(read, 100, 50)
error = np.abs(half - wave[::2])[52:98].max()
print("missing as read:", int(np.isnan(read).sum()), "| after resampling:", int(np.isnan(half).sum()))
steps = np.abs(np.diff(half[55:95])).max()
print(f"error within the gap: up to {error:.0f} uV of a wave of 50 uV; steps there {steps:.2f} uV")
assert np.isnan(read).sum() == 100
assert np.isnan(half).sum() == 0
assert error > 50
try:
    wfdb.wrsamp("b", fs=100, units=["uV"], sig_name=["none"], p_signal=np.full((300, 1), np.nan), fmt=["16"])
except ValueError as failure:
    print("a channel of NaN alone:", type(failure).__name__)
else:
    raise AssertionError("a channel of NaN was written")
PY
