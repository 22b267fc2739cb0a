"""Ray: one network answers by the sets of several folders, and two workers train the sets that one trains."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import subsense as ss
from networks import TOWERS, draw, make, with_sets
from sessions import python_blocks
from subsense.integrations.ray import _inside, sharing_weights
from subsense.integrations.serving.answering import answer_rows
from training_examples import make_robust

INPUTS = draw(TOWERS, rows=6)


def network() -> nn.Module:
    return make("towers")[0]


def save_sets(root: Path) -> dict[str, ss.RobustModel]:
    """Write two folders of sets of one network."""
    found = {}
    for seed, name in enumerate(["day", "night"]):
        own, arguments = make("towers")
        found[name] = with_sets(ss.adapt(own, **arguments), seed=seed)
        ss.save(found[name], root / name)
    return found


def test_models_of_two_folders_share_the_networks_weights(tmp_path: Path) -> None:
    save_sets(tmp_path)
    own = network()
    day, night = (ss.load(_inside(tmp_path, name), sharing_weights(own)).eval() for name in ("day", "night"))
    assert all(one is other for one, other in zip(day.network.parameters(), night.network.parameters(), strict=True))
    row = {"left": INPUTS["left"][:1]}
    with torch.no_grad():
        assert not torch.equal(day(row), night(row))
    with pytest.raises(ss.CheckpointError, match=r"no adapter sets '../day'; there are day, night"):
        _inside(tmp_path, "../day")


def test_rows_are_answered_each_for_itself() -> None:
    own, arguments = make("towers")
    robust = with_sets(ss.adapt(own, **arguments))
    rows = [{"left": INPUTS["left"][:1]}, {name: one[1:2] for name, one in INPUTS.items()}]
    with torch.no_grad():
        expected = [robust(row)[0] for row in rows]
    found = answer_rows(robust, rows, torch.device("cpu"))
    assert [answer["present"] for answer in found] == ["left", "left+right"]
    for answer, one in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(answer["output"]), one)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ss.RobustModel]]:
    """Serve two folders with two replicas, as the page says."""
    ray = pytest.importorskip("ray", reason="needs the extra subsense[ray]")
    from ray import serve

    monkeypatch.chdir(tmp_path)
    found = save_sets(tmp_path / "sets")
    paths = os.pathsep.join(path for path in sys.path if path)
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    exec(python_blocks("serving")[1], {"make_network": network})
    yield found
    serve.shutdown()
    ray.shutdown()


def ask(payload: Any, folder: str | None = None) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"} | ({"serve_multiplexed_model_id": folder} if folder else {})
    request = urllib.request.Request("http://127.0.0.1:8000/", json.dumps(payload).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_serves_each_folder_what_a_request_lacks(running: dict[str, ss.RobustModel]) -> None:
    for row, folder in enumerate([None, "day", "night", "day", "night"]):
        names = ["left"] if row % 2 else ["left", "right"]
        status, answer = ask({"inputs": {name: INPUTS[name][row].tolist() for name in names}}, folder)
        with torch.no_grad():
            expected = running[folder or "day"].eval()({name: INPUTS[name][row : row + 1] for name in names})[0]
        assert (status, answer["present"]) == (200, "+".join(names))
        torch.testing.assert_close(torch.tensor(answer["output"]), expected, rtol=1e-4, atol=1e-5)
    status, answer = ask({"inputs": {"up": [1.0]}})
    assert status == 422
    assert "unknown modality 'up'" in answer["error"]
    status, answer = ask({"inputs": {}}, "noon")
    assert status == 422
    assert "no adapter sets 'noon'; there are day, night" in answer["error"]


TRAIN = """
import sys
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

def work(config):
    sys.path[:0] = config["paths"]
    import subsense as ss
    from training_examples import make_robust, ordered_loader
    robust, loader = make_robust(), ordered_loader(batch_size=8 // config["world"])
    ss.train(robust, loader, loss=torch.nn.functional.cross_entropy, epochs=2, combinations=["rgb"], progress=False)
    import ray.train
    if ray.train.get_context().get_world_rank() == 0:
        ss.save(robust, config["folder"] + f"/{config['world']}")

for world in (1, 2):
    config = {"world": world, "folder": sys.argv[1], "paths": sys.argv[2:]}
    scaling = ScalingConfig(num_workers=world, resources_per_worker={"CPU": 1})
    TorchTrainer(work, train_loop_config=config, scaling_config=scaling).fit()
"""


@pytest.mark.slow
def test_two_workers_of_ray_train_train_what_one_trains(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra subsense[ray]")
    (tmp_path / "work.py").write_text(TRAIN)
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "work.py"), str(tmp_path), *paths],
        capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    own = [ss.load(tmp_path / str(world), make_robust().detach()) for world in (1, 2)]
    for one, two in zip(*(robust.adapter_parameters().values() for robust in own), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
