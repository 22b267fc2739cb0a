#!/usr/bin/env bash
# A recurrent layer given a sequence of length zero: onnxruntime's last state is zero, not the state it began with.
#
# Expected   no step, so the last state is the initial state. And the reference evaluator of onnx agrees with
#            onnxruntime.
# Found      in onnxruntime Y_h (and Y_c) of a row with sequence_lens 0 are 0, whatever initial_h holds. onnx's
#            ReferenceEvaluator ignores sequence_lens: it runs all rows to the end and says nothing, so rows of any
#            length but the longest differ from onnxruntime. Same for LSTM, GRU, RNN. (torch's pack_padded_sequence
#            refuses length zero, so no torch model shows this.)
# With       onnxruntime 1.32.0 on CPU, onnx 1.23.2, opset 17; 2026-11-27
# Matters    length zero is how a missing series is told to a recurrent layer, and the initial state is often made of
#            another modality, which is thrown away here. Who tests an exported model against the reference finds errors
#            that aren't there.
# Source     onnx/reference/ops/op_lstm.py takes sequence_lens and doesn't use it; the operators' text doesn't say what
#            length zero gives; onnxruntime's outputs as run.
# subsense   exports no recurrent site, but a network may hold one: `fold(..., drop_absent=True)` to ONNX is checked by
#            onnxruntime, not by the reference. Keep it so.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "onnx==1.23.2" "onnxruntime==1.32.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
HIDDEN, WIDTH, START = 2, 3, 0.5
random = np.random.RandomState(0)


def tensor(name, *shape):
    return helper.make_tensor(name, TensorProto.FLOAT, shape, random.randn(*shape).flatten())


def value(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(kind, gates):
    states = ["Y_h", "Y_c"] if kind == "LSTM" else ["Y_h"]
    node = helper.make_node(
        kind, ["X", "W", "R", "B", "lengths"] + ["start"] * len(states), ["Y", *states], hidden_size=HIDDEN
    )
    graph = helper.make_graph(
        [node],
        kind,
        [value("X", "T", "N", WIDTH), value("lengths", "N", kind=TensorProto.INT32), value("start", 1, "N", HIDDEN)],
        [value(name, 1, "N", HIDDEN) for name in states],
        [
            tensor("W", 1, gates * HIDDEN, WIDTH),
            tensor("R", 1, gates * HIDDEN, HIDDEN),
            tensor("B", 1, 2 * gates * HIDDEN),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


for kind, gates in {"LSTM": 4, "GRU": 3, "RNN": 1}.items():
    made = model(kind, gates)
    feed = {
        "X": random.randn(4, 3, WIDTH).astype("float32"),
        "lengths": np.array([4, 2, 0], "int32"),
        "start": np.full((1, 3, HIDDEN), START, "float32"),
    }
    last = onnxruntime.InferenceSession(made.SerializeToString()).run(["Y_h"], feed)[0][0]
    reference = ReferenceEvaluator(made).run(["Y_h"], feed)[0][0]
    full = ReferenceEvaluator(made).run(["Y_h"], {**feed, "lengths": np.array([4, 4, 4], "int32")})[0][0]
    agree = [bool(np.allclose(a, b, atol=1e-5)) for a, b in zip(last, reference)]
    print(f"{kind:5} lengths 4, 2, 0, start {START}: last state of length 0 {last[2]}; reference agrees by row {agree}")
    assert (last[2] == 0).all()
    assert agree == [True, False, False]
    assert np.array_equal(reference, full), "the reference reads the lengths now"
PY
