"""The recipes for CMNeXt: planned without data, in step with their data sets, and run on small trees in true layout."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from picture_trees import pixels, write_array, write_lists, write_picture
from subsense.cli import app
from subsense.data import describe
from subsense.evaluation.results import Results
from subsense.recipes.reading import load_recipe

NAMES = ("mfnet", "nyudv2", "mcubes")
RECIPES = [f"{name}{size}" for name in NAMES for size in ("", "-small")]
PARTS = {"train": ["t1", "t2", "t3", "t4"], "val": ["v1"], "test": ["x1", "x2"]}
FEW = ["t1", "t2", "t3", "t4", "v1", "x1", "x2"]


def succeed(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    return result.stdout


@pytest.mark.parametrize(
    ("name", "network", "adapters", "share"),
    [("mfnet", "116,560,396", "766,580", "0.658%"), ("mcubes", "58,729,560", "334,704", "0.570%")],
)
def test_plan_prints_the_papers_figures_without_data(name, network, adapters, share):
    assert f"{adapters} parameters per bank row, {share} of the network's {network}" in succeed("plan", name)


@pytest.mark.parametrize("name", RECIPES)
def test_network_and_data_agree(name):
    recipe = load_recipe(name)
    description = describe(recipe.data.name)
    assert recipe.network.options["modalities"] == list(description.modalities)
    assert recipe.network.options["num_classes"] == description.num_classes
    assert recipe.train.loss.options["ignore_index"] == description.ignore_index
    assert recipe.adapt.layers


def mfnet(root: Path, draw: np.random.Generator) -> None:
    folder = root / "mfnet"
    for name in FEW:
        write_picture(folder / "images" / f"{name}.png", pixels(draw, 4, 32, 40))
        write_picture(folder / "labels" / f"{name}.png", pixels(draw, 1, 32, 40) % 9)
    write_lists(folder, PARTS)


def nyudv2(root: Path, draw: np.random.Generator) -> None:
    folder = root / "nyudv2"
    for name in FEW:
        for kind in ("RGB", "HHA"):
            write_picture(folder / kind / f"{name}.png", pixels(draw, 3, 32, 40))
        write_picture(folder / "Label" / f"{name}.png", pixels(draw, 1, 32, 40) % 41)
    write_lists(folder, PARTS)


def mcubes(root: Path, draw: np.random.Generator) -> None:
    folder, size = root / "mcubes", (32, 192 + 40)
    for name in FEW:
        write_picture(folder / "polL_color" / f"{name}.png", pixels(draw, 3, *size))
        for kind in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp"):
            write_array(folder / kind / f"{name}.npy", draw.uniform(0, 1, size))
        write_picture(folder / "NIR_warped" / f"{name}.png", pixels(draw, 1, *size))
        label = pixels(draw, 1, *size) % 20
        label[:, -30:-20] = 255
        write_picture(folder / "GT" / f"{name}.png", label)
    write_lists(folder / "list_folder", PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("write", [mfnet, nyudv2, mcubes])
def test_small_recipe_runs_on_a_small_tree(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, np.random.default_rng(0))
    crop = "data.options.augment={scale: [0.9, 1.1], crop: [32, 32], flip: 0.5}"
    changes = [crop, "pretrain.epochs=1", "train.epochs=4", "pretrain.batch_size=2", "train.batch_size=2"]
    arguments = [f"{write.__name__}-small", "--root", ".", *(part for change in changes for part in ("--set", change))]
    succeed("train", *arguments)
    succeed("evaluate", *arguments)
    results = Results.load(next(Path("runs").glob("*/results.json")))
    assert len(results.rows) == {"mfnet": 3, "nyudv2": 3, "mcubes": 4}[write.__name__]
    for row in results.rows:
        assert row.count == 2
        assert row.pretrained is not None
        assert 0 <= row.pretrained <= 1
        assert row.adapted is not None
        assert 0 <= row.adapted <= 1
