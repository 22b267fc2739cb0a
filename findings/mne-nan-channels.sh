#!/usr/bin/env bash
# MNE: limits let NaN pass, one lost channel makes all channels NaN, and a gap of 20 samples empties its channel.
#
# Expected   an epoch of NaN is rejected by the limits on amplitude; the average reference leaves out what is NaN, or
#            says so; resampling spoils the neighbourhood of a gap.
# Found      Epochs(reject=..., flat=...) keeps an epoch with NaN: it is neither above nor below a limit.
#            set_eeg_reference("average") with one channel of NaN that isn't marked bad makes every channel NaN.
#            resample() makes the whole channel NaN, with method="polyphase" 6 % of it; filter() makes all of it NaN,
#            too.
# With       mne 1.13.2, numpy 2.3.5, scipy 1.15.3; 2026-11-27
# Matters    the natural way of marking a lost electrode, NaN, takes the healthy ones with it, before a network sees
#            anything.
# Source     mne/epochs.py compares by np.greater and np.less; the reference is a plain mean over channels; FFT over the
#            whole channel.
# subsense   `check_inputs=True` refuses the NaN; the page on data should say: mark channels bad (or `annotate_nan`)
#            before anything else.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "mne==1.13.2" "numpy==2.3.5" "scipy==1.15.3"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import mne
import numpy as np

mne.set_log_level("ERROR")
print("mne", mne.__version__, "numpy", np.__version__)
info = mne.create_info(["F3", "F4", "Cz", "Pz"], 100.0, "eeg")
healthy = np.random.RandomState(0).randn(4, 1000) * 1e-5
gap, lost = healthy.copy(), healthy.copy()
gap[1, 300:320] = np.nan
lost[1] = np.nan


def raw(data):
    return mne.io.RawArray(data.copy(), info)


def missing(instance):
    return np.isnan(instance.get_data()).mean(1).round(3).tolist()


epochs = mne.Epochs(
    raw(gap), np.array([[310, 0, 1], [600, 0, 1]]), tmin=-0.2, tmax=0.2, baseline=None, preload=True,
    reject={"eeg": 1e-3}, flat={"eeg": 1e-9},
)  # fmt: skip
kept = [int(np.isnan(epoch).sum()) for epoch in epochs.get_data()]
marked = raw(lost)
marked.info["bads"] = ["F4"]
found = {
    "average reference, channel 1 NaN": missing(raw(lost).set_eeg_reference("average")),
    "the same, channel 1 marked bad": missing(marked.set_eeg_reference("average")),
    "resample": missing(raw(gap).resample(50)),
    "resample, polyphase": missing(raw(gap).resample(50, method="polyphase")),
    "filter": missing(raw(gap).filter(1, 20)),
}
print("epochs kept by the limits, NaN in each:", kept)
for name, share in found.items():
    print(f"{name:34} share of NaN by channel {share}")
assert kept == [20, 0]
assert found["average reference, channel 1 NaN"] == [1, 1, 1, 1]
assert found["the same, channel 1 marked bad"] == [0, 1, 0, 0]
assert found["resample"] == found["filter"] == [0, 1, 0, 0]
assert 0.02 < found["resample, polyphase"][1] < 0.1
PY
