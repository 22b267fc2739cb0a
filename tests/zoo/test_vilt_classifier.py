"""ViLT: transformers' own numbers, checkpoints of a folder, and images that are not there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import subsense as ss
from subsense.errors import FactoryError, InputError
from subsense.testing import check_network
from subsense.zoo import build
from subsense.zoo.vilt_classifier import ViltClassifier

transformers = pytest.importorskip("transformers")

CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 24,
    "patch_size": 8,
    "vocab_size": 20,
    "max_position_embeddings": 6,
    "initializer_range": 0.3,
}
CLASSES = 5
MODALITIES = {
    "image": {"pixel_values": "3 24 32", "pixel_mask": "24 32:int64"},
    "text": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), "6:int64"),
}
WHITE = ss.Constant({"pixel_values": 1.0, "pixel_mask": 1}, name="white")
EMPTY = ss.Constant(
    {
        "input_ids": torch.tensor([2, 3, 0, 0, 0, 0]),
        "attention_mask": torch.tensor([1, 1, 0, 0, 0, 0]),
        "token_type_ids": 0,
    },
    name="empty",
)
FILLS = {"zeros": "zeros", "published": {"image": WHITE, "text": EMPTY}}


def network(**options: Any) -> ViltClassifier:
    torch.manual_seed(0)
    return ViltClassifier(**{"num_classes": CLASSES, "config": CONFIG} | options).eval()


def inputs(rows: int = 4) -> dict[str, dict[str, Tensor]]:
    """Draw images of different sizes, padded, and texts of different lengths."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(rows, 3, 24, 32, generator=draw)
    mask = torch.zeros(rows, 24, 32, dtype=torch.long)
    for row, (height, width) in enumerate([(24, 32), (16, 32), (8, 16), (24, 8)][:rows]):
        mask[row, :height, :width] = 1
    ids = torch.randint(4, 20, (rows, 6), generator=draw)
    attention = (torch.arange(6) < torch.tensor([6, 2, 4, 3])[:rows, None]).long()
    text = {"input_ids": ids, "attention_mask": attention, "token_type_ids": torch.zeros_like(ids)}
    return {"image": {"pixel_values": pixels, "pixel_mask": mask}, "text": text}


def flat(batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return batch["image"] | batch["text"]


def reference(ours: ViltClassifier) -> Any:
    """Give transformers' own classifier with the same weights."""
    config = transformers.ViltConfig(**CONFIG, num_labels=CLASSES, num_images=1)
    theirs = transformers.ViltForImagesAndTextClassification(config).eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def test_names_and_numbers_are_transformers_own() -> None:
    ours = network()
    theirs, batch = reference(ours), inputs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        expected = theirs(**flat(batch) | {"pixel_mask": batch["image"]["pixel_mask"][:, None]}).logits
        torch.testing.assert_close(ours(**flat(batch)), expected, atol=1e-5, rtol=1e-5)


def test_a_mask_with_a_hole_gives_transformers_numbers_too() -> None:
    ours, batch = network(), inputs()
    batch["image"]["pixel_mask"] = torch.ones(4, 24, 32, dtype=torch.long)
    batch["image"]["pixel_mask"][1:, 8:, 16:] = 0  # a corner is missing
    with torch.no_grad():
        expected = reference(ours)(**flat(batch) | {"pixel_mask": batch["image"]["pixel_mask"][:, None]}).logits
        torch.testing.assert_close(ours(**flat(batch)), expected, atol=1e-5, rtol=1e-5)


def test_is_the_same_to_the_bit_each_time() -> None:
    ours, batch = network(), flat(inputs())
    with torch.no_grad():
        assert torch.equal(ours(**batch), ours(**batch))


def test_rows_do_not_meet_and_padding_is_not_seen() -> None:
    ours, batch = network(), inputs()
    with torch.no_grad():
        together = ours(**flat(batch))
        alone = [ours(**{name: part[row : row + 1] for name, part in flat(batch).items()}) for row in range(4)]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)
        batch["image"]["pixel_values"] += 100 * (1 - batch["image"]["pixel_mask"])[:, None]
        batch["text"]["input_ids"] *= batch["text"]["attention_mask"]
        torch.testing.assert_close(ours(**flat(batch)), together, atol=1e-6, rtol=1e-5)


def test_an_image_without_a_patch_is_not_seen() -> None:
    ours, batch = network(), inputs()
    batch["image"]["pixel_mask"][:] = 0
    with torch.no_grad():
        blind = ours(**flat(batch))
        batch["image"]["pixel_values"] = torch.randn_like(batch["image"]["pixel_values"])
        torch.testing.assert_close(ours(**flat(batch)), blind, atol=1e-6, rtol=1e-5)
    assert bool(blind.isfinite().all())


def test_fresh_positions_tell_patches_apart() -> None:
    ours, batch = network(), inputs(1)
    moved = batch["image"] | {"pixel_values": batch["image"]["pixel_values"].roll(CONFIG["patch_size"], 3)}
    with torch.no_grad():
        assert not torch.allclose(ours(**flat(batch)), ours(**batch["text"] | moved), atol=1e-3)


def test_every_parameter_gets_a_gradient() -> None:
    ours = network()
    ours(**flat(inputs())).square().sum().backward()
    dead = [name for name, parameter in ours.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


@pytest.mark.parametrize("fill", FILLS)
def test_keeps_the_promises_of_an_adapted_network(fill: str) -> None:
    check_network(network(), MODALITIES, inputs(), fill=FILLS[fill], compiled=False)


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    check_network(network(), MODALITIES, inputs(), fill=FILLS["published"])


@pytest.mark.parametrize("fill", FILLS)
def test_a_mixed_batch_is_one_pass_and_right_in_every_row(fill: str) -> None:
    robust = ss.adapt(network(), MODALITIES, fill=FILLS[fill], sharing="additive")
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.1)
    robust.mark_trained(robust.combinations)
    batch, present = inputs(), torch.tensor([[True, True], [True, False], [False, True], [True, False]])
    together = robust.eval()(batch, present)
    assert robust.located is not None
    assert not robust.located.unknown([site.key for site in robust.plan.sites])
    for row, has in enumerate(present):
        one = {name: {key: part[row : row + 1] for key, part in batch[name].items()} for name in batch}
        torch.testing.assert_close(together[row : row + 1], robust(one, has[None]), atol=1e-5, rtol=1e-5)


def test_transformers_own_vilt_runs_grouped_and_right_in_every_row() -> None:
    """It refuses the masks that are drawn to find its rows, and draws the order of its patches."""
    config = transformers.ViltConfig(**CONFIG, num_labels=CLASSES)
    spec = MODALITIES | {"image": {"pixel_values": "3 24 24", "pixel_mask": "24 24:int64"}}
    robust = ss.adapt(transformers.ViltForQuestionAnswering(config), spec, fill=FILLS["published"])
    robust.mark_trained(robust.combinations)
    batch, present = inputs(), torch.tensor([[True, True], [True, False], [False, True], [True, False]])
    batch["image"] = {
        "pixel_values": batch["image"]["pixel_values"][..., :24],
        "pixel_mask": torch.ones(4, 24, 24).long(),
    }
    with torch.no_grad():
        together = robust.eval()(batch, present).logits
        for row, has in enumerate(present):
            one = {name: {key: part[row : row + 1] for key, part in batch[name].items()} for name in batch}
            torch.testing.assert_close(together[row : row + 1], robust(one, has[None]).logits, atol=1e-5, rtol=1e-5)


def test_each_way_of_standing_in_is_what_its_name_says() -> None:
    ours, batch = network(), inputs()
    robust = ss.adapt(ours, MODALITIES, fill=FILLS["published"])
    assert robust.fill.spec == {"image": "white", "text": "empty"}
    white = {"pixel_values": torch.ones(4, 3, 24, 32), "pixel_mask": torch.ones(4, 24, 32, dtype=torch.long)}
    assert torch.equal(robust.pretrained({"text": batch["text"]}), ours(**batch["text"], **white))
    empty = {name: torch.zeros(4, 6, dtype=torch.long) for name in MODALITIES["text"]}
    empty["input_ids"][:, :2], empty["attention_mask"][:, :2] = torch.tensor([2, 3]), 1
    assert torch.equal(robust.pretrained({"image": batch["image"]}), ours(**batch["image"], **empty))


def test_texts_longer_than_the_positions_are_refused() -> None:
    batch = flat(inputs())
    long = {name: torch.cat([batch[name]] * 2, 1) for name in MODALITIES["text"]}
    with pytest.raises(InputError, match="expected at most 6 tokens, the network's positions, but found 12"):
        network()(**batch | long)


# ---- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a checkpoint folder of a fine-tuned network."""
    reference(network()).save_pretrained(tmp_path)
    return tmp_path


def test_a_fine_tuned_folder_gives_its_own_scores(folder: Path) -> None:
    loaded, batch = ViltClassifier(folder=folder).eval(), flat(inputs())
    with torch.no_grad():
        assert torch.equal(loaded(**batch), network()(**batch))
    assert not loaded.vilt.training


@pytest.mark.parametrize("kind", ["ViltForMaskedLM", "ViltModel"])
def test_a_folder_of_another_task_gives_all_but_the_head(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    other = getattr(transformers, kind)(transformers.ViltConfig(**CONFIG))
    other.save_pretrained(tmp_path)
    with pytest.raises(FactoryError, match=r"lacks weights of the network: classifier.*head='fresh'"):
        ViltClassifier(num_classes=CLASSES, folder=tmp_path)
    loaded = ViltClassifier(num_classes=CLASSES, folder=tmp_path, head="fresh")
    body = getattr(other, "vilt", other).state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in loaded.vilt.state_dict().items())
    assert loaded.classifier[3].weight.shape == (CLASSES, 12)


def test_a_head_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(FactoryError, match=r"classifier\.3.*head='fresh'"):
        ViltClassifier(num_classes=7, folder=folder)


def test_weights_that_lack_a_layer_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FactoryError, match=r"lacks weights of the network: vilt\.encoder\.layer\.2.* and \d+ more"):
        ViltClassifier(folder=folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FactoryError, match=rf"expected the file {folder / name}, but there is none.*huggingface"):
        ViltClassifier(folder=folder)


def test_weights_that_are_a_pickle_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FactoryError, match=r"pytorch_model\.bin is a pickle, which is not read"):
        ViltClassifier(folder=folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:200])
    with pytest.raises(FactoryError, match=r"can't be (read|loaded)"):
        ViltClassifier(folder=folder)


def test_a_folder_of_another_network_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FactoryError, match="expected model_type 'vilt', but found 'bert'"):
        ViltClassifier(folder=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "x"}, "give folder or config, not both"),
        ({"num_classes": None}, "num_classes is needed"),
        ({"head": "new"}, "expected head 'checkpoint' or 'fresh', but got 'new'"),
        ({"config": {"hiden_size": 8}}, r"ViltConfig has no value 'hiden_size'\. Did you mean 'hidden_size'\?"),
        ({"config": {"max_image_length": 200}}, "max_image_length is 200, which draws patches at random"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FactoryError, match=message):
        network(**options)


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FactoryError, match=r"pip install subsense\[transformers\]"):
        build("vilt-classifier", num_classes=2)
