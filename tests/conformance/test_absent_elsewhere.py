"""What other libraries make of what is absent, as the table of docs/absent-input.md says."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torchmetrics import classification

import subsense as ss
from subsense.evaluation import metrics

LABELS, SAID = torch.tensor([0, 1, 2, 1, 1, 0]), torch.tensor([0, 1, 2, 2, 1, 0])


def test_means_over_classes_differ_where_a_class_never_occurs() -> None:
    """Torchmetrics leaves it out, scikit-learn with `labels` counts zero; ours says which it is."""
    macro = float(classification.MulticlassJaccardIndex(4, average="macro")(SAID, LABELS))
    counted = sk.jaccard_score(LABELS, SAID, average="macro", labels=range(4), zero_division=0)
    assert macro == pytest.approx(counted * 4 / 3)
    own = metrics.build("miou")
    assert "classes that occur in labels or predictions" in own.convention


@pytest.mark.filterwarnings("ignore:No .* samples")
def test_auroc_of_a_class_that_never_occurs_is_zero_and_enters_the_mean() -> None:
    scores = torch.eye(4)[torch.tensor([0, 1, 3, 2, 1, 0])]
    each = classification.MulticlassAUROC(4, average=None)(scores, LABELS)
    assert float(each[3]) == 0
    assert float(classification.MulticlassAUROC(4)(scores, LABELS)) == pytest.approx(float(each.mean()))


def test_an_adapter_file_of_onnxruntime_that_lacks_a_parameter_is_run(tmp_path: Path) -> None:
    """What it lacks keeps the graph's own value, in silence; a name or shape too many is refused."""
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["scaled"]), helper.make_node("Add", ["scaled", "shift"], ["y"])],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "scale", "shift")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [helper.make_tensor(name, TensorProto.FLOAT, [2], [value] * 2) for name, value in (("scale", 1), ("shift", 0))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(**parameters: float) -> list[float]:
        values = {name: np.full(2, value, dtype=np.float32) for name, value in parameters.items()}
        file, form = str(tmp_path / "set.onnx_adapter"), onnxruntime.AdapterFormat()
        form.set_adapter_version(1)
        form.set_model_version(1)
        form.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
        form.export_adapter(file)
        adapter, chosen = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
        adapter.Load(file)
        chosen.add_active_adapter(adapter)
        return session.run(None, {"x": np.ones(2, dtype=np.float32)}, chosen)[0].tolist()

    assert run(scale=3, shift=1) == [4, 4]
    assert run(scale=3) == [3, 3]
    assert run() == [1, 1]
    with pytest.raises(Exception, match="Invalid input name: other"):
        run(other=1)


def test_a_fold_is_a_whole_network_instead(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 3), torch.nn.Linear(6, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.a(left) + self.b(right)

    robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    robust.mark_trained(robust.combinations)
    assert set(ss.fold(robust, "left").state_dict()) == set(robust.network.state_dict())
