"""A file that fails its check is never seen, and what stood at its place before stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from test_architectures import stir

AXES = {"a": "5 6", "b": "4"}
INPUTS = {"a": torch.randn(3, 5, 6), "b": torch.randn(3, 4)}
ENDINGS = ["onnx", "pt2"]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.b, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.gru(a)[0][:, -1] + self.b(b))


def recurrent(**options: Any) -> ss.RobustModel:
    torch.manual_seed(0)
    return stir(ss.adapt(Recurrent(), AXES, **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("robust.onnx", "robust.a.onnx_adapter", "robust.pt2"):
        (tmp_path / name).write_bytes(b"before")
    return tmp_path


@pytest.mark.parametrize("sharing", ["independent", "additive"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_layers_that_take_one_set_for_all_rows_are_refused_first(ending: str, sharing: str, folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(ss.FoldError, match=r"gru \(GRU\): adapted in .* subsense\.fold.*exclude=\['gru'\]") as found:
        ss.export(recurrent(sharing=sharing), folder / f"robust.{ending}", INPUTS)
    assert type(found.value) is ss.FoldError
    assert contents(folder) == before


def test_what_the_refusal_says_can_be_done(tmp_path: Path) -> None:
    ss.fold(recurrent(), "a", export=tmp_path / "a.pt2", example=INPUTS)
    ss.export(recurrent(exclude=["gru"]), tmp_path / "robust.pt2", INPUTS)
    assert sorted(contents(tmp_path)) == ["a.pt2", "robust.pt2"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_export_that_differs_leaves_nothing(ending: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, robust = contents(folder), recurrent(exclude=["gru"])
    monkeypatch.setattr("subsense.deployment.export.TOLERANCE", -1.0)
    with pytest.raises(ss.FoldError, match=rf"robust\.{ending}.*: differs from what it was made of") as found:
        ss.export(robust, folder / f"robust.{ending}", INPUTS)
    assert type(found.value) is ss.FoldError
    assert contents(folder) == before


def test_a_fold_that_differs_in_its_second_file_leaves_neither(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ss.FoldError("robust.pt2: differs")

    before = contents(folder)
    monkeypatch.setattr("subsense.deployment.fold.write_export", fails)
    with pytest.raises(ss.FoldError, match="differs"):
        ss.fold(recurrent(), "a", onnx=folder / "robust.onnx", export=folder / "robust.pt2", example=INPUTS)
    assert contents(folder) == before


def test_a_file_takes_the_place_of_the_one_before(folder: Path) -> None:
    files = ss.export(recurrent(exclude=["gru"]), folder / "robust.onnx", INPUTS)
    assert {one: path.name for one, path in files.items()} == {
        one: f"robust.{one}.onnx_adapter" for one in recurrent().combinations
    }
    assert b"before" not in [content for name, content in contents(folder).items() if name != "robust.pt2"]
    assert all(path.exists() for path in files.values())


def test_a_place_that_cannot_be_written_is_named(folder: Path) -> None:
    with pytest.raises(ss.WriteError, match=r"robust\.pt2"):
        ss.export(recurrent(exclude=["gru"]), folder / "robust.pt2" / "below.pt2", INPUTS)
    (folder / "taken.pt2").mkdir()
    with pytest.raises(ss.WriteError, match=r"taken\.pt2: can't be put there"):
        ss.export(recurrent(exclude=["gru"]), folder / "taken.pt2", INPUTS)
