"""One file holds every adapter set: an ONNX graph with a file for each, or a program told what is present."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from architectures import ARCHITECTURES
from subsense import RobustModel
from subsense.deployment.onnx_sets import OnnxSets
from test_architectures import difference, stir, without

EXPORTED = [name for name, one in ARCHITECTURES.items() if one.exports]
SHARINGS = ["independent", "additive"]
QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 3


class ThreeSensors(nn.Module):
    """Classify from three sensors, one of which an image may be."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.imu, self.audio, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(24, 5)

    def forward(self, camera: Tensor, imu: Tensor, audio: Tensor) -> Tensor:
        parts = [self.camera(camera), self.imu(imu), self.audio(audio)]
        return self.head(torch.cat([part.tanh() for part in parts], 1))


def three_sensors(**options: Any) -> tuple[RobustModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    robust = stir(ss.adapt(ThreeSensors().eval(), {"camera": "3 8 8", "imu": "6", "audio": "4"}, **options))
    return robust, {"camera": torch.randn(4, 3, 8, 8), "imu": torch.randn(4, 6), "audio": torch.randn(4, 4)}


def run(path: Path, inputs: dict[str, Tensor], adapter: Path | None = None) -> Tensor:
    """Run a graph as somebody would who has onnxruntime alone."""
    session = onnxruntime.InferenceSession(str(path), QUIET, providers=["CPUExecutionProvider"])
    options = onnxruntime.RunOptions()
    if adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        options.add_active_adapter(loaded)
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()}, options)
    return torch.from_numpy(found)


def check_every_set(
    robust: RobustModel, inputs: dict[str, Tensor], graph: Path, files: dict[ss.Combination, Path]
) -> None:
    assert list(files) == list(robust.modalities.incomplete())
    for rows in (1, 4):
        some = {name: tensor[:rows] for name, tensor in inputs.items()}
        with torch.no_grad():
            assert difference(run(graph, some), robust(some)) < 1e-5
            for combination, file in files.items():
                broken = {name: one if name in combination else one * torch.nan for name, one in some.items()}
                assert difference(run(graph, broken, file), robust(without(some, combination))) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"method": ["ssf", "lora"]}, id="independent"),
        pytest.param({"method": "bitfit", "fill": ss.Constant(0.5)}, id="constant", marks=pytest.mark.slow),
        pytest.param({"method": "ssf", "sharing": "additive"}, id="additive", marks=pytest.mark.slow),
    ],
)
def test_one_graph_serves_every_combination(options: dict[str, Any], tmp_path: Path) -> None:
    robust, inputs = three_sensors(**options)
    files = ss.export(robust, tmp_path / "robust.onnx", inputs)
    onnx.checker.check_model(str(tmp_path / "robust.onnx"))
    check_every_set(robust, inputs, tmp_path / "robust.onnx", files)
    session = onnxruntime.InferenceSession(str(tmp_path / "robust.onnx"), QUIET, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["camera", "imu", "audio"]
    named = {one.name for one in session.get_overridable_initializers()} - {"subsense.weights"}
    assert named == {"subsense.present", *robust.banks.named()}
    facts = json.loads(session.get_modelmeta().custom_metadata_map["subsense"])
    assert facts["modalities"] == ["camera", "imu", "audio"]
    assert facts["adapters"] == {str(one): file.name for one, file in files.items()}
    assert facts["adapters"]["camera+imu"] == "robust.camera+imu.onnx_adapter"


def test_a_set_of_additive_rows_is_its_weights(tmp_path: Path) -> None:
    method = ["ssf", "lora", ss.Common(ss.LoRA(rank=2))]
    robust, inputs = three_sensors(sharing="additive", method=method, fill="learned")
    files = ss.export(robust, tmp_path / "robust.onnx", inputs)
    check_every_set(robust, inputs, tmp_path / "robust.onnx", files)
    assert max(file.stat().st_size for file in files.values()) < 1024
    quality = np.array([[0.0, 0.0, 0.5]], np.float32)  # of the weights, as `1 - quality` in the model
    session = onnxruntime.InferenceSession(str(tmp_path / "robust.onnx"), QUIET, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: one.numpy() for name, one in inputs.items()} | {"subsense.weights": quality})
    with torch.no_grad():
        expected = robust(inputs, torch.tensor([[1.0, 1.0, 0.5]]).expand(4, -1))
    assert difference(torch.from_numpy(found), expected) < 1e-5


@pytest.mark.parametrize("untrained", ["nearest", pytest.param("pretrained", marks=pytest.mark.slow)])
def test_the_policy_chooses_the_set_of_what_was_not_trained(untrained: str, tmp_path: Path) -> None:
    robust, inputs = three_sensors(untrained=untrained)
    robust.router.trained_rows = robust.router.rows(["camera", "camera+imu"])
    check_every_set(robust, inputs, tmp_path / "robust.onnx", ss.export(robust, tmp_path / "robust.onnx", inputs))


@pytest.mark.slow
def test_what_is_not_served_gets_no_file(tmp_path: Path) -> None:
    robust, inputs = three_sensors()
    robust.router.trained_rows = robust.router.rows(["camera", "camera+imu"])
    assert list(map(str, ss.export(robust, tmp_path / "two.onnx", inputs))) == ["camera", "camera+imu"]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_program_is_told_what_each_row_has(sharing: str, tmp_path: Path) -> None:
    robust, inputs = three_sensors(sharing=sharing, method=["ssf", "lora"])
    files = ss.export(robust, tmp_path / "robust.pt2", inputs)
    assert set(files.values()) == {tmp_path / "robust.pt2"}
    program = torch.export.load(tmp_path / "robust.pt2").module()
    present = torch.stack([robust.modalities.present(one) for one in robust.modalities.combinations()])
    for rows in (1, 7):
        some = {name: tensor[torch.arange(rows) % 4] for name, tensor in inputs.items()}
        with torch.no_grad():
            assert difference(program(some, present[:rows]), robust(some, present[:rows])) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", EXPORTED)
def test_every_architecture_that_exports(name: str, sharing: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stir(architecture.adapt(method=["ssf", "lora"], sharing=sharing)), architecture.inputs()
    ss.export(robust, tmp_path / "robust.onnx", inputs, free_batch=False)  # it compares every combination itself
    ss.export(robust, tmp_path / "robust.pt2", inputs, free_batch=False)


def test_wrong_numbers_are_not_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robust, inputs = three_sensors()

    banks = robust.banks.named()
    monkeypatch.setattr(OnnxSets, "_row", lambda self, code: {name: bank[1:2] for name, bank in banks.items()})
    with pytest.raises(ss.FoldError, match=r"robust.onnx, camera\+imu\+audio: differs from what it was made of"):
        ss.export(robust, tmp_path / "robust.onnx", inputs)


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    robust, inputs = three_sensors()
    with pytest.raises(ss.FoldError, match=r"expected a file that ends in .onnx or .pt2, but found 'robust.pt'"):
        ss.export(robust, tmp_path / "robust.pt", inputs)
    with pytest.raises(ss.FoldError, match="an example with every modality, but it lacks imu"):
        ss.export(robust, tmp_path / "robust.onnx", {**inputs, "imu": None})
    untrained = ss.adapt(ThreeSensors().eval(), {"camera": "3 8 8", "imu": "6", "audio": "4"})
    with pytest.raises(ss.FoldError, match=r"no adapter set was trained for .*; trained: none"):
        ss.export(untrained, tmp_path / "robust.onnx", inputs)
    assert not list(tmp_path.iterdir())
