#!/usr/bin/env bash
# Trainer.predict joins outputs by position: one modality's scores land in another's column.
#
# Expected   an error, or outputs joined by name.
# Found      batch 1 gives logits {rgb, thermal, audio}, batch 2 {thermal, audio} since rgb was missing. predictions is
#            a tuple of two: the first is rgb of batch 1 followed by thermal of batch 2, the second thermal followed by
#            audio. Nothing is said. The same where each batch gives one output of another name.
# With       transformers 5.23.0, accelerate 1.15.0, torch 2.13.0; 2026-11-27
# Matters    a network with a head for each modality, which leaves out the heads of what is missing, is scored on mixed
#            columns.
# Source     Trainer.prediction_step makes a tuple of the outputs' values; nested_concat in trainer_pt_utils.py zips two
#            tuples.
# subsense   `for_trainer` hands `Trainer` one tensor of logits for every combination; `select` must pick one that all
#            have.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import accelerate
import torch
import transformers
from transformers import Trainer, TrainingArguments

transformers.logging.set_verbosity_error()
print("torch", torch.__version__, "transformers", transformers.__version__, "accelerate", accelerate.__version__)


class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Linear(1, 1)

    def forward(self, labels=None, **inputs):
        return {"loss": torch.zeros(()), **{name: 1.0 * value for name, value in inputs.items() if name in VALUES}}


VALUES = {"rgb": 1.0, "thermal": 2.0, "audio": 3.0}


def rows(*names):
    return [{**{name: torch.tensor([VALUES[name]]) for name in names}, "labels": torch.tensor(0)} for _ in range(2)]


def predict(data):
    arguments = TrainingArguments(
        "out", per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False
    )
    predictions = Trainer(Heads(), arguments).predict(data).predictions
    return [p.flatten().tolist() for p in (predictions if isinstance(predictions, tuple) else (predictions,))]


mixed = predict(rows("rgb", "thermal", "audio") + rows("thermal", "audio"))
single = predict(rows("rgb") + rows("thermal"))
print("1 is rgb, 2 thermal, 3 audio")
print("batches {rgb, thermal, audio}, {thermal, audio}:", mixed)
print("batches {rgb}, {thermal}:", single)
assert mixed == [[1.0, 1.0, 2.0, 2.0], [2.0, 2.0, 3.0, 3.0]]
assert single == [[1.0, 1.0, 2.0, 2.0]]
PY
