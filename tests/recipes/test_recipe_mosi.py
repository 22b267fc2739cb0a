"""The recipes for CMU-MOSI and CMU-MOSEI at work: a regression, from a release's file to the table."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sentiment_files import mult_release, write
from subsense.cli import app
from subsense.recipes.reading import load_recipe
from subsense.recipes.run import plan_network

SHAPES = {"text": (5, 7), "audio": (6, 3), "vision": (4, 2)}
CHANGES = [
    "network.options={text: 7, audio: 3, vision: 2, width: 4, num_heads: 2, num_layers: 1}",
    *("pretrain.epochs=1", "train.epochs=1", "evaluate.finetuned=null", "evaluate.dedicated=null"),
]


@pytest.mark.parametrize(("name", "per_row", "total"), [("mosi", 44_402, 1_537_241), ("mosei", 44_402, 1_540_601)])
def test_every_parameter_is_within_reach_without_the_data(name: str, per_row: int, total: int) -> None:
    for recipe in (name, f"{name}-small"):
        assert not plan_network(load_recipe(recipe)).out_of_reach
    planned = plan_network(load_recipe(name))
    assert (planned.parameters_per_row, planned.network_parameters) == (per_row, total)


@pytest.mark.filterwarnings("ignore:the first gradients explode")  # LayerNorm over what is padded with zeros
def test_recipe_runs_to_a_table_and_measures_values_too(tmp_path: Path) -> None:
    write(tmp_path / "data/mosi/mosi_data.pkl", mult_release(SHAPES))
    options = ["--root", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    options += [part for change in CHANGES for part in ("--set", change)]
    trained = CliRunner().invoke(app, ["train", "mosi-small", *options])
    assert trained.exit_code == 0, trained.output
    for metric in ("acc-2", "correlation"):
        measured = CliRunner().invoke(app, ["evaluate", "mosi-small", *options, "--set", f"evaluate.metric={metric}"])
        assert measured.exit_code == 0, measured.output
        written = (tmp_path / "run/results.json").read_text("utf-8")
        assert json.loads(written)["metric"].lower() == metric
        assert "NaN" not in written
    assert (tmp_path / "run/results.html").stat().st_size > 1000
