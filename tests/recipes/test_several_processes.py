"""`torchrun -m subsense train RECIPE`: several processes train what one trains, and one of them writes and tells."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from subsense.recipes.progress import is_first, note
from subsense.recipes.run.together import by_first

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
BRIEF = ["train", "digits", "--set", "pretrain.epochs=1", "--set", "train.epochs=1"]


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    told = run(*LAUNCH, "-m", "subsense", *BRIEF, "--set", "train.batch_size=32", "--output", "two", folder=tmp_path)
    assert told.count("saved     two/adapters") == 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "adapters", "network.safetensors", "trained.json",
    ]  # fmt: skip
    network = ["--set", "network.checkpoint=two/network.safetensors", "--set", "train.batch_size=64"]
    run("-m", "subsense", *BRIEF, *network, "--output", "one", folder=tmp_path)
    one, two = (load_file(next((tmp_path / name / "adapters").glob("*.safetensors"))) for name in ("one", "two"))
    assert one.keys() == two.keys()
    apart = sum(float((two[name] - one[name]).square().sum()) for name in one) ** 0.5
    assert apart < 0.01 * sum(float(value.square().sum()) for value in one.values()) ** 0.5  # the last batch is no pair


def test_one_of_several_tells_and_writes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    waited: list[str] = []
    monkeypatch.setattr("subsense.recipes.run.together.Processes.__init__", lambda *_: None)
    monkeypatch.setattr("subsense.recipes.run.together.Processes.wait", lambda _: waited.append("waited"))
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        assert is_first() is (rank == "0")
        note(f"from {rank}")
        by_first(lambda: waited.append("wrote"))
    assert waited == ["wrote", "waited", "waited"]
    assert capsys.readouterr().err == "from 0\n"
