"""Weights from files: safetensors, and what torch.save wrote, without running anything that it names."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from subsense.errors import CheckpointError, DamagedFile, ForeignTensor, MissingFile
from subsense.zoo.weights import check_fit, read_weights

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def assert_read(path: Path) -> None:
    weights, _ = read_weights(path)
    assert list(weights) == list(WEIGHTS)
    assert all(torch.equal(weights[name], tensor) for name, tensor in WEIGHTS.items())


def test_reads_safetensors_with_what_they_say_of_themselves(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.safetensors", metadata={"recipe": "mine"})
    weights, about = read_weights(str(tmp_path / "weights.safetensors"))
    assert about == {"recipe": "mine"}
    assert torch.equal(weights["weight"], WEIGHTS["weight"])


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        OrderedDict({name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}),
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": OrderedDict(WEIGHTS), "arch": "b2"},
        {"epoch": 500, "model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {}}, "best_miou": 59.9},
        {"model": {"state_dict": WEIGHTS}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_torch_saved_plain_or_nested(tmp_path: Path, content: object, legacy: bool) -> None:
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    assert_read(tmp_path / "weights.pth")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_executes_nothing(tmp_path: Path, legacy: bool) -> None:
    content = {"state_dict": WEIGHTS, "more": Malicious(tmp_path / "executed")}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DamagedFile, match=r"won't unpickle .*weights_only=False"):
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "executed").exists(), "the file is no threat, so it proves nothing"


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cpu"])
def test_a_torch_with_a_hole_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(CheckpointError, match=r"with torch 2\.10 or newer; in torch 2\."):
        read_weights(tmp_path / "weights.pth")


def test_refuses_other_objects_than_tensors(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(DamagedFile, match="expected tensors and plain containers alone"):
        read_weights(tmp_path / "whole.pth")
    torch.save({"weight": np.float64(1.0)}, tmp_path / "numpy.pth")
    with pytest.raises(DamagedFile, match="expected tensors and plain containers alone"):
        read_weights(tmp_path / "numpy.pth")


def test_refuses_what_holds_no_weights(tmp_path: Path) -> None:
    torch.save({"optimizer": {"state": {}}, "epoch": 3}, tmp_path / "state.pth")
    with pytest.raises(DamagedFile, match=r"under one of state_dict, .* but found a mapping with \['optimizer', 'ep"):
        read_weights(tmp_path / "state.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(DamagedFile, match="but found list"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.bin"])
def test_refuses_a_damaged_file_and_a_missing_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(MissingFile, match="no such file; expected the network's weights"):
        read_weights(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DamagedFile):
        read_weights(path)
    path.write_bytes(b"")
    with pytest.raises(DamagedFile):
        read_weights(path)


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DamagedFile, match="can't be read"):
        read_weights(path)


def test_names_what_does_not_fit() -> None:
    found = {"weight": torch.zeros(2, 2), "bais": torch.zeros(2)}
    with pytest.raises(ForeignTensor) as caught:
        check_fit(found, WEIGHTS, "weights.pth", "Linear")
    assert str(caught.value) == (
        "weights.pth does not fit Linear: lacks bias; has bais, which the network has not. Did you mean 'bias'?; "
        "weight: expected (2, 3), but found (2, 2)"
    )


def test_names_the_first_few_of_many() -> None:
    own = {f"layer{index}": torch.zeros(1) for index in range(8)}
    with pytest.raises(ForeignTensor, match=r"lacks layer4; and 3 more$"):
        check_fit({}, own, "weights.pth", "network")
