"""The emoji recipe from picture and name to its table, on a small tree in the set's layout."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from subsense.cli import app
from subsense.data import describe, load
from subsense.recipes.reading import load_recipe

pytest.importorskip("transformers")

SMALL = [
    "network.options.config.hidden_size=8",
    "network.options.config.num_hidden_layers=1",
    "network.options.config.num_attention_heads=2",
    "network.options.config.intermediate_size=8",
    "network.options.config.image_size=16",
    "data.options.size=[16, 16]",
    "pretrain.epochs=1",
    "train.epochs=1",
    "evaluate.dedicated=[text]",
    "evaluate.finetuned.epochs=1",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two pictures of each category to train, and one to test."""
    description = describe("emoji")
    for part, count in (("train", 2), ("test", 1)):
        lines = []
        for number, label in enumerate(description.class_names):
            for copy in range(count):
                file = tmp_path / description.folder / "images" / part / label / f"{label}_{copy}{part}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (20 * number, 200, 99)).save(file)
                lines.append(f"{file.name},{label} number {copy},{label}")
        texts = tmp_path / description.folder / "texts"
        texts.mkdir(exist_ok=True)
        (texts / f"{part}_titles.csv").write_text("\n".join(lines), "utf-8")
    return tmp_path


def test_samples_are_kept_in_memory(root: Path) -> None:
    data = load("emoji", root)
    before = data.test[3]
    for file in (root / data.folder / "images").rglob("*.jpg"):
        file.unlink()
    assert torch.equal(data.test[3][0]["image"]["pixel_values"], before[0]["image"]["pixel_values"])


def test_the_recipe_runs_to_its_table(root: Path, tmp_path: Path) -> None:
    changes = [*SMALL, f"output={tmp_path / 'run'}"]
    options = ["--root", str(root), *(part for change in changes for part in ("--set", change))]
    for verb in ("train", "evaluate"):
        result = CliRunner().invoke(app, [verb, "emoji", *options])
        assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    assert "filled with image: zero-pixels, text: empty-string" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert {"image", "text", "image+text"} <= {row[0] for row in rows if row}
    folded = CliRunner().invoke(app, ["fold", "emoji", "text", "-o", str(tmp_path / "plain.safetensors"), *options])
    assert folded.exit_code == 0, folded.stderr


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ("{image: zero-pixel, text: empty-string}", "Did you mean 'zero-pixels'?"),
        ("{image: {pixel_values: 1.0}}", "a value for each of ['pixel_values', 'pixel_mask']"),
        ("{text: mean}", "only floating-point inputs have such a stand-in"),
        ("{txt: zeros}", "unknown modality 'txt'"),
    ],
)
def test_a_fill_that_does_not_fit_is_found_before_anything_is_trained(
    root: Path, tmp_path: Path, fill: str, message: str
) -> None:
    changes = [part for change in (*SMALL, f"adapt.fill={fill}") for part in ("--set", change)]
    places = ["--root", str(root), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", "emoji", *places, *changes])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_the_recipes_numbers_of_tokens_and_patches_agree() -> None:
    recipe = load_recipe("emoji")
    config, options = recipe.network.options["config"], recipe.data.options
    assert config["vocab_size"] >= options["vocabulary_size"]
    assert config["max_position_embeddings"] >= options["length"]
    assert (config["image_size"], config["patch_size"]) == (options["size"][0], options["patch"])
