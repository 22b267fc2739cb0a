#!/usr/bin/env bash
# EDF files: what is missing is stored as the lowest voltage, and silence isn't zero.
#
# Expected   writing NaN raises, or comes back as NaN; zeros come back as zeros.
# Found      pyedflib stores NaN, inf and -inf as the physical minimum (digital -32768), without a word, so a gap reads
#            as -100 uV, by mne too. Zeros in the usual range -100 to 100 come back as 0.0015, for every sample: a
#            channel that wasn't recorded isn't == 0.
# With       pyedflib 0.1.42, mne 1.13.2; 2026-11-27
# Matters    gaps of wearables and lost electrodes, written by the field's usual library, become a large steady voltage.
# Source     EDF has whole numbers between digital minimum and maximum, and no mark for what is missing; zero lies
#            between two of them unless the range is chosen so.
# subsense   a loader can't tell: `present` must be stored beside the file; a test for zero must take the file's step as
#            its tolerance.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "pyedflib==0.1.42" "mne==1.13.2" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import mne
import numpy as np
import pyedflib

mne.set_log_level("ERROR")
print("pyedflib", pyedflib.__version__, "mne", mne.__version__)
wave = 50 * np.sin(np.arange(300) / 5)
gap = wave.copy()
gap[100:150], gap[150:200] = np.nan, np.inf
signals = {"wave": wave, "gap": gap, "flat": np.zeros(300)}
writer = pyedflib.EdfWriter("a.edf", len(signals), file_type=pyedflib.FILETYPE_EDFPLUS)
writer.setSignalHeaders(
    [
        {"label": name, "dimension": "uV", "sample_frequency": 100, "physical_min": -100, "physical_max": 100,
         "digital_min": -32768, "digital_max": 32767, "transducer": "", "prefilter": ""}
        for name in signals
    ]
)  # fmt: skip
writer.writeSamples(list(signals.values()))
writer.close()
with pyedflib.EdfReader("a.edf") as reader:
    read = {name: reader.readSignal(i) for i, name in enumerate(signals)}
by_mne = mne.io.read_raw_edf("a.edf", preload=True).get_data()[1] * 1e6
print("NaN and inf come back as", np.unique(read["gap"][100:200]), "by mne", np.unique(by_mne[100:200].round(6)))
print("zeros come back as", np.unique(read["flat"]))
assert np.unique(read["gap"][100:200]).tolist() == [-100.0]
assert np.allclose(by_mne[100:200], -100)
assert np.allclose(read["gap"][:100], wave[:100], atol=0.004)
assert (read["flat"] != 0).all() and np.allclose(read["flat"], 0.00152590, atol=1e-7)
PY
