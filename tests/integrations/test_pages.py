"""The Python on the pages runs as a reader would run it, with a network and loaders of the reader's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from networks import with_sets
from sessions import python_blocks

MODALITIES = {"rgb": "3 H W", "thermal": "1 H W"}
Rows = list[tuple[dict[str, Tensor], Tensor]]


def encoder(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16))


class Cameras(nn.Module):
    """Tell the brighter half of a picture from two cameras, given as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.thermal, self.head = encoder(3), encoder(1), nn.Linear(16, 2)

    def forward(self, pictures: list[Tensor]) -> Tensor:
        return self.head(torch.relu(self.rgb(pictures[0]) + self.thermal(pictures[1])))


class ByName(Cameras):
    def forward(self, rgb: Tensor, thermal: Tensor) -> Tensor:
        return super().forward([rgb, thermal])


@pytest.fixture
def rows() -> Rows:
    torch.manual_seed(0)
    target = torch.randint(2, (48,))
    bright = torch.zeros(48, 1, 8, 8)
    bright[..., :4] = 2 * target[:, None, None, None]
    return [
        ({"rgb": bright[row] + torch.randn(3, 8, 8), "thermal": bright[row] + torch.randn(1, 8, 8)}, target[row])
        for row in range(48)
    ]


@pytest.fixture
def names(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has: data, a loss, a network."""
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(rows, batch_size=8)
    return {
        "ss": ss,
        "network": Cameras().eval(),
        "train_loader": loader,
        "val_loader": loader,
        "test_loader": loader,
        "unlabelled_loader": [inputs for inputs, _ in loader],
        "cross_entropy": cross_entropy,
        "loss": cross_entropy,
        "modalities": MODALITIES,
        "x": torch.stack([inputs["rgb"] for inputs, _ in rows]),
    }


def run(block: str, names: dict[str, Any], *changes: tuple[str, str]) -> dict[str, Any]:
    for old, new in changes:
        assert old in block, f"the page has no {old!r} any more"
        block = block.replace(old, new)
    exec(block, names)
    return names


def test_the_index(names: dict[str, Any]) -> None:
    assert run(python_blocks("index")[0], names)["y"].shape == (48, 2)


def test_calibration(names: dict[str, Any]) -> None:
    calibrated, common = python_blocks("calibration")
    assert run(calibrated, names)["y"].shape == (48, 2)
    names["network"] = ByName().eval()
    assert len(run(common, names, ("epochs=64", "epochs=1"))["robust"].trained) == 2


@pytest.mark.filterwarnings("ignore:(Found|The).*:UserWarning", "ignore::DeprecationWarning")  # eval mode, workers
def test_lightning(names: dict[str, Any]) -> None:
    pytest.importorskip("lightning", reason="needs the extra subsense[lightning]")
    names["network"] = ByName().eval()
    quiet = "logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False"
    options = f"max_epochs=1, accelerator='cpu', {quiet}"
    found = run(python_blocks("trainers")[0], names, ("max_epochs=20", options))
    assert {"val_loss", "val_loss/rgb", "val_loss/thermal"} <= found["trainer"].callback_metrics.keys()
    assert len(ss.load("robust", found["robust"].detach()).trained) == 2


def test_trainer(names: dict[str, Any], rows: Rows) -> None:
    pytest.importorskip("transformers", reason="needs the extra subsense[transformers]")
    names["robust"] = ss.adapt(ByName().eval(), MODALITIES)
    names["train_rows"] = names["test_rows"] = [{**inputs, "labels": target} for inputs, target in rows]
    found = run(python_blocks("trainers")[1], names, ('"out",', '"out", use_cpu=True, report_to="none",'))
    logged = {name for line in found["trainer"].state.log_history for name in line}
    assert {"eval_accuracy", "eval_accuracy/rgb", "eval_accuracy/thermal"} <= logged


def test_serving(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    litserve = pytest.importorskip("litserve", reason="needs the extra subsense[serve]")
    names["make"] = lambda: with_sets(ss.adapt(ByName().eval(), MODALITIES))
    ports = []
    monkeypatch.setattr(litserve.LitServer, "run", lambda self, port: ports.append(port))
    run(python_blocks("serving")[0], names)
    assert ports == [8000]


def test_stand_ins(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names["robust"] = ss.adapt(ByName().eval(), MODALITIES)
    run(python_blocks("absent-input")[0], names)


@pytest.fixture
def one_process() -> Iterator[Callable[[], None]]:
    yield lambda: torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_large_networks(names: dict[str, Any], one_process: Callable[[], None]) -> None:
    network = ByName().eval()
    network.blocks = nn.ModuleList()
    names |= {"network": network, "loader": names["train_loader"]}
    one_process()
    found = run(python_blocks("large-networks")[0], names, ('metric="miou"', 'metric="accuracy"'))
    inputs = {"rgb": names["x"]}
    args, kwargs = ss.prepare(found["robust"], inputs)
    with torch.no_grad():
        torch.testing.assert_close(found["plain"](*args, **kwargs), found["robust"].eval()(inputs))
