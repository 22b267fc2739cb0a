"""`subsense compare`: methods side by side, and a run that goes on where it was stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import subsense as ss
from command_line import OWN_RECIPE, fail, run, succeed
from subsense.recipes.run.columns import Bench

COMPARE = """
compare:
  - scale
  - {lora: {rank: 1}}
  - {method: scale, sharing: independent, name: apart, lr: 3e-3, epochs: 1}
"""


@pytest.fixture
def recipe(own: Path) -> Path:
    """Give the user's own recipe, in which every training counts its steps."""
    counted = OWN_RECIPE.replace("batch_size: 16}", "batch_size: 16, loss: own_code:Loss}")
    own.write_text(counted + COMPARE, "utf-8")
    return own


def results_of(folder: str) -> ss.Results:
    return ss.Results.load(Path(folder, "comparison.json"))


def test_one_table_holds_baselines_and_methods(recipe: Path) -> None:
    text = succeed("compare", recipe)
    for word in ("pretrained", "dedicated", "fine-tuned", "scale", "lora (rank 1)", "apart", "parameters (set)"):
        assert word in text
    results = results_of("run")
    assert list(results.compared) == ["scale", "lora (rank 1)", "apart"]
    assert results.compared["apart"].sharing == "independent"
    assert [row.combination for row in results.rows] == ["left", "right", "left+right"]
    complete = results["left+right"]
    assert set(complete.compared.values()) == {complete.pretrained}
    assert results["right"].dedicated is None
    assert all(Path(f"run/comparison.{suffix}").exists() for suffix in ("md", "csv", "tex", "png", "html"))


def test_a_column_is_what_train_and_evaluate_give(recipe: Path) -> None:
    changes = ("--set", "adapt.method=ssf", "--set", "compare=ssf")
    succeed("compare", recipe, *changes)
    succeed("train", recipe, *changes, "--output", "alone")
    succeed("evaluate", recipe, *changes, "--output", "alone")
    alone, compared = ss.Results.load("alone/results.json"), results_of("run")
    for row in alone.rows:
        other = compared[row.combination]
        assert (row.adapted, row.dedicated, row.fine_tuned) == (
            other.compared["ssf"], other.dedicated, other.fine_tuned,
        )  # fmt: skip


def test_stopped_again_and_again_it_ends_with_the_same_table_and_repeats_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, str]] = []
    measure = Bench.measure
    monkeypatch.setattr(
        Bench, "measure", lambda *args, **more: measured.append((args[3], str(args[2]))) or measure(*args, **more)
    )
    succeed("compare", recipe, "--output", "whole")
    cells = len(measured)
    measured.clear()
    num_stops = 0
    while True:
        monkeypatch.setattr("own_code.Loss.stop_after", 7)  # an epoch has 3 steps
        if run("compare", recipe).exit_code == 0:
            break
        num_stops += 1
    assert num_stops > 3
    assert results_of("run") == results_of("whole")
    assert len(measured) == cells
    monkeypatch.setattr("own_code.Loss.stop_after", 0)
    succeed("compare", recipe)
    assert len(measured) == cells
    assert not Path("run/state").exists()


def test_another_recipe_finds_no_cell_of_this_one_and_fresh_keeps_none(recipe: Path) -> None:
    succeed("compare", recipe)
    assert "kept" not in run("compare", recipe, "--set", "train.lr=1e-3", "--output", "other").stderr
    result = run("compare", recipe, "--set", "train.lr=1e-3")
    assert "dedicated: 1 of 1 combinations kept" in result.stderr
    assert "scale: 3 of 3" not in result.stderr
    assert "scale: 3 of 3 combinations kept" in run("compare", recipe).stderr
    assert "kept" not in run("compare", recipe, "--fresh").stderr


def test_a_cell_that_is_no_json_is_named(recipe: Path) -> None:
    succeed("compare", recipe)
    [cell] = Path("run/columns").glob("scale-*/cells/left.json")
    cell.write_text("{", "utf-8")
    result = run("compare", recipe)
    assert result.exit_code == 1
    assert f"{cell}: expected JSON" in " ".join(result.stderr.split())


def test_what_cannot_be_compared_is_found_before_anything_is_written(recipe: Path) -> None:
    message = fail(2, "compare", recipe, "--set", "compare=[scale, scale]")
    assert "several columns would be called scale" in message
    separate = ("--set", "train.strategy=separate", "--set", "compare=[scale]")
    message = fail(1, "compare", recipe, *separate)
    assert "compare: scale: train.strategy 'separate' needs sharing 'independent'" in message
    assert "is a site for norm" in fail(1, "compare", recipe, "--set", "compare=[norm]")
    assert not Path("run").exists()


def test_the_test_part_is_not_read_while_anything_trains(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be chosen on what is never read: each reading of the test part is one of a finished training."""
    from subsense.recipes.run.job import Job

    events: list[str] = []
    test_batches = Job.test_batches
    monkeypatch.setattr(Job, "test_batches", lambda job: events.append("test") or test_batches(job))
    for name in ("train", "train_dedicated", "finetune"):
        real = getattr(ss, name)

        def told(*args: object, real=real, **more: object) -> object:
            events.append("begin")
            result = real(*args, **more)
            events.append("end")
            return result

        monkeypatch.setattr(ss, name, told)
    succeed("compare", recipe)
    assert events.count("begin") == 5
    assert "begin test" not in " ".join(events)


@pytest.mark.slow
def test_killed_process_goes_on_to_the_same_table(recipe: Path) -> None:
    code = recipe.parent / "own_code.py"
    deadly = "import os, signal\n" + code.read_text("utf-8").replace(
        "def forward(self, output, target):",
        "steps = 0\n\n    def forward(self, output, target):\n        Loss.steps += 1\n"
        "        if Loss.steps == int(os.environ.get('KILL_AT', 0)):\n            os.kill(os.getpid(), signal.SIGKILL)",
    )
    code.write_text(deadly, "utf-8")
    succeed("compare", recipe, "--output", "whole")

    def process(kill_at: int) -> int:
        command = [Path(sys.executable).with_name("subsense"), "compare", recipe.name, "--json"]
        environment = {**os.environ, "KILL_AT": str(kill_at)}
        return subprocess.run(command, cwd=recipe.parent, env=environment, capture_output=True, timeout=120).returncode

    assert process(kill_at=20) == -signal.SIGKILL
    assert process(kill_at=11) == -signal.SIGKILL
    assert process(kill_at=0) == 0
    assert json.loads(Path("run/comparison.json").read_text("utf-8")) == json.loads(
        Path("whole/comparison.json").read_text("utf-8")
    )
