#!/usr/bin/env bash
# A quantiser calibrated on zeros saturates the modality when it comes, or rounds it to whole numbers.
#
# Expected   no range was seen: an error, a warning, or that input is left unquantised.
# Found      torch.ao's observers give scale 1.2e-7: everything above 3e-5 becomes 3e-5. onnxruntime's quantize_static
#            gives scale 1.0: 0.3, 0.6, 0.9 become 0, 1, 1. Neither says anything.
# With       torch 2.13.0, onnxruntime 1.32.0, onnx 1.23.2; 2026-11-27
# Matters    calibration data that lack a modality (or a fold's example with a zero fill) make a model that is right
#            without it and wrong with it, by two different errors.
# Source     torch/ao/quantization/observer.py (scale is at least eps); onnxruntime/quantization/quant_utils.py
#            compute_scale_zp.
# subsense   docs/deployment.md should say: quantise with complete inputs, or quantise each fold by its own combination.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "onnx==1.23.2" "onnxruntime==1.32.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from torch.ao.quantization import observer

print("torch", torch.__version__, "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
values = torch.tensor([0.3, 0.6, 0.9])
for name in ("MinMaxObserver", "MovingAverageMinMaxObserver", "HistogramObserver"):
    seen = getattr(observer, name)()
    seen(torch.zeros(8, 3))
    scale, zero = (float(number) for number in seen.calculate_qparams())
    after = torch.fake_quantize_per_tensor_affine(values, scale, int(zero), 0, 255)
    print(f"{name:30} scale {scale:.2g}: 0.3, 0.6, 0.9 become {after.tolist()}")
    assert scale < 1e-6 and after.max() < 1e-4

weight = np.eye(3, dtype="float32")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    [numpy_helper.from_array(weight, "w")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "plain.onnx")


class Zeros(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": np.zeros((8, 3), "float32")}])

    def get_next(self):
        return next(self.batches, None)


quantize_static("plain.onnx", "quantised.onnx", Zeros())
scales = {
    t.name: float(numpy_helper.to_array(t))
    for t in onnx.load("quantised.onnx").graph.initializer
    if t.name == "x_scale"
}
after = onnxruntime.InferenceSession("quantised.onnx").run(None, {"x": values.numpy()[None]})[0]
print(f"{'onnxruntime quantize_static':30} scale {scales['x_scale']}: 0.3, 0.6, 0.9 become {after[0].tolist()}")
assert scales == {"x_scale": 1.0}
assert after[0].tolist() == [0.0, 1.0, 1.0]
PY
