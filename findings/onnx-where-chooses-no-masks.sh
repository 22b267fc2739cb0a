#!/usr/bin/env bash
# ONNX's Where over bools: allowed by the standard, passed by the checker, and onnxruntime has no kernel for it.
#
# Expected   Where runs for every type that its definition lists, bool among them; a mask is chosen like any number.
# Found      the session isn't made: NOT_IMPLEMENTED, "Could not find an implementation for Where(16)". The same node
#            over uint8, int8, int32, int64, float16 and float32 runs. Pad, ReduceMax, ReduceMin, ScatterElements,
#            Compress, Tile and Equal over bool run too: of what masks go through it is this one alone.
# With       onnxruntime 1.32.0 on CPU, onnx 1.23.2, opset 20; 2026-11-28
# Matters    "the mask that came, or the stand-in's where nothing came" is torch.where over bools, and torch exports it as
#            written: the export passes, the checker passes, and the file can't be loaded where it is to run.
# Source     the types of Where in the operators' text; the session's error as raised.
# subsense   chooses bool stand-ins by And, Or and Not (modalities/filling.py), and every exported file is
#            loaded once before it is handed over.

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
came = np.array([[True], [False]])
mask = np.array([[True, False, True], [True, True, True]])
stand_in = np.array([[True, False, False], [True, False, False]])
options = onnxruntime.SessionOptions()
options.log_severity_level = 4


def run(kind):
    def value(name, array, type_):
        return helper.make_tensor_value_info(name, type_, list(array.shape))

    feed = {"came": came, "mask": mask.astype(kind), "stand_in": stand_in.astype(kind)}
    type_ = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("Where", list(feed), ["chosen"])],
        "choose",
        [value("came", came, TensorProto.BOOL), value("mask", mask, type_), value("stand_in", stand_in, type_)],
        [value("chosen", mask, type_)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    expected = ReferenceEvaluator(made).run(None, feed)[0]
    assert (expected == np.where(came, mask, stand_in)).all()
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return bool((session.run(None, feed)[0] == expected).all())


found = {kind: run(kind) for kind in ("bool", "uint8", "int8", "int32", "int64", "float16", "float32")}
for kind, said in found.items():
    print(f"{kind:8} {said}")
assert "NOT_IMPLEMENTED" in str(found.pop("bool")), "Where over bool runs now"
assert all(said is True for said in found.values()), found
PY
