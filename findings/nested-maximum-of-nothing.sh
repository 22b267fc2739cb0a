#!/usr/bin/env bash
# The maximum of an empty row of a jagged tensor is a finite number; what "nothing" is goes by the reduction.
#
# Expected   amax of no tokens raises, as it does for a dense tensor, or is -inf, as in segment_reduce and torch.masked;
#            argmax raises.
# Found      amax and max give -3.4e38, amin 3.4e38 (float32's ends), which isfinite() accepts; argmax gives 0, the
#            place of a token that isn't there. mean is NaN, sum 0, attention over no keys 0. EmbeddingBag in mode max
#            gives 0 for an empty bag even if all embeddings are negative.
# With       torch 2.13.0, jagged layout, CPU; 2026-11-27
# Matters    ragged tensors are the natural form for "this row has no audio". Pooled by maximum, a missing modality is
#            -3.4e38, which a check for NaN and inf lets pass and the next linear layer turns into inf or NaN.
# Source     torch/nested/_internal/ops.py pads with the dtype's ends before it reduces.
# subsense   takes no jagged inputs; within a network such values are finite, so counting non-finite outputs isn't
#            enough: huge ones count.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch

print("torch", torch.__version__)
lowest = torch.finfo(torch.float32).min
rows = [torch.full((3, 2), -1.0), torch.zeros(0, 2), torch.full((2, 2), -2.0)]
jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
empty = {
    "amax": jagged.amax(1)[1],
    "max": jagged.max(1).values[1],
    "amin": jagged.amin(1)[1],
    "argmax": jagged.argmax(1)[1],
    "mean": jagged.mean(1)[1],
    "sum": jagged.sum(1)[1],
}
heads = [torch.nested.nested_tensor(values, layout=torch.jagged).unflatten(-1, [1, 2]).transpose(1, 2) for values in (
    [torch.ones(1, 2), torch.ones(1, 2)], [torch.ones(2, 2), torch.ones(0, 2)]
)]  # fmt: skip
attended = torch.nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[1])
empty["attention"] = attended.transpose(1, 2).values()[1, 0]
empty["segment_reduce max"] = torch.segment_reduce(torch.ones(3), "max", lengths=torch.tensor([3, 0]))[1]
bag = torch.nn.EmbeddingBag(2, 2, mode="max", _weight=torch.full((2, 2), -1.0))
empty["EmbeddingBag max"] = bag(torch.tensor([0, 1]), torch.tensor([0, 2]))[1].detach()
for name, value in empty.items():
    print(f"{name:20}{value.tolist()}")
assert empty["amax"].tolist() == empty["max"].tolist() == [lowest, lowest]
assert empty["amax"].isfinite().all()
assert empty["amin"].tolist() == [-lowest, -lowest]
assert empty["argmax"].tolist() == [0, 0]
assert empty["mean"].isnan().all()
assert empty["sum"].tolist() == empty["attention"].tolist() == empty["EmbeddingBag max"].tolist() == [0.0, 0.0]
assert empty["segment_reduce max"].item() == -float("inf")
try:
    torch.zeros(0, 2).amax(0)
except (IndexError, RuntimeError) as error:
    print("dense amax:", type(error).__name__)
else:
    raise AssertionError("a dense maximum of nothing is given")
PY
