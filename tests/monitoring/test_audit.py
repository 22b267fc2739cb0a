"""The audit finds leaks and idle masks that are planted, and none where there are none."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from command_line import run, succeed
from networks import NETWORKS, draw, make, with_sets
from subsense.data import describe
from subsense.monitoring.audit_data import DataFacts
from subsense.recipes.reading import load_recipe
from subsense.recipes.run.resolve import fresh_network, make_call, make_layers, make_methods

MODALITIES = {"left": "4", "right": "6"}


class Masked(nn.Module):
    """(batch, 4), (batch, 6), present -> (batch, 3), with a mask as it should be; others below break it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8)

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return torch.where(has[:, None], value, 0.0)

    def forward(self, left: Tensor, right: Tensor, present: Tensor) -> Tensor:
        left, right = self.mask("left", left, present[:, 0]), self.mask("right", right, present[:, 1])
        return self.head(torch.tanh(self.left(left) + self.right(right)))


class Forgotten(Masked):
    """Leak: the mask of one modality is never applied."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return value if name == "right" else super().mask(name, value, has)


class Multiplied(Masked):
    """Leak: a product with zero keeps NaN."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return value * has[:, None] if name == "right" else super().mask(name, value, has)


class Softly(Masked):
    """Leak: what is masked still counts a little."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return torch.where(has[:, None], value, 1e-4 * value) if name == "right" else super().mask(name, value, has)


class Centred(Masked):
    """Leak between rows: a mean over the batch is taken before the mask."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return super().mask(name, value - value.mean(0) if name == "right" else value, has)


class FirstRow(Masked):
    """Leak in mixed batches alone: all rows get the mask of the first."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return super().mask(name, value, has[:1].expand(len(has)) if name == "right" else has)


class Dropped(Masked):
    """Idle: what `masked_fill` gives is thrown away."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        if name == "left":
            return super().mask(name, value, has)
        value.masked_fill(~has[:, None], 0.0)
        return value


class TrainingOnly(Masked):
    """Idle: the mask acts in train mode alone."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        return super().mask(name, value, has) if self.training or name == "left" else value


class OneToken(Masked):
    """Idle: a softmax over one key is 1, whatever is added to its score."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        if name == "left":
            return super().mask(name, value, has)
        scores = value.mean(1, keepdim=True).masked_fill(~has[:, None], -1e9)
        return scores.softmax(1) * value


class DeadBranch(Masked):
    """Idle: a branch of zero weights, whose sensor the network ignores."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.right.weight)


class Drowned(Masked):
    """Idle: a ReLU that never opens."""

    def mask(self, name: str, value: Tensor, has: Tensor) -> Tensor:
        value = super().mask(name, value, has)
        return torch.relu(value - 1e9) if name == "right" else value


LEAKS = (Forgotten, Multiplied, Softly, Centred, FirstRow)
IDLE = (Dropped, TrainingOnly, OneToken, DeadBranch, Drowned)


def audited(factory: Callable[[], nn.Module], **options: Any) -> ss.AuditReport:
    torch.manual_seed(0)
    network = factory().eval()
    return ss.audit(network, [draw(MODALITIES, 16)], modalities=MODALITIES, **options)


@pytest.mark.parametrize("factory", LEAKS)
def test_a_planted_leak_is_found(factory: Callable[[], nn.Module]) -> None:
    assert {fault.modality for fault in audited(factory).leaks} == {"right"}


@pytest.mark.parametrize("factory", IDLE)
def test_a_mask_that_does_nothing_is_found(factory: Callable[[], nn.Module]) -> None:
    report = audited(factory)
    assert {fault.modality for fault in report.idle} == {"right"}
    ignored = {fault.modality for fault in report.of("ignored")}
    assert ignored == ({"right"} if factory in (DeadBranch, Drowned) else set())


def test_nothing_is_found_in_a_network_that_masks_as_it_should() -> None:
    report = audited(Masked)
    assert not report.faults
    assert "Nothing found" in str(report)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_adapted_network_has_no_leak(name: str) -> None:
    network, options = make(name)
    robust = with_sets(ss.adapt(network, **options, method=["ssf", "lora"], sharing="additive")).train()
    report = ss.audit(robust, [draw(options["modalities"], 8)])
    assert not report.leaks
    assert not report.idle
    assert robust.training


def test_a_fill_that_looks_at_the_batch_is_told() -> None:
    def fill(name: str, inputs: dict[str, Tensor], present: Tensor) -> Tensor:
        return inputs[name].mean(0, keepdim=True).expand_as(inputs[name])

    network, options = make("towers")
    robust = with_sets(ss.adapt(network, **options, fill=fill))
    report = ss.audit(robust, [draw(MODALITIES, 8)])
    assert not report.leaks, "it reads what is there alone"
    assert not report.of("not checked")


def test_statistics_over_the_batch_are_told_and_left_as_they_were() -> None:
    class Normed(Masked):
        def forward(self, left: Tensor, right: Tensor, present: Tensor) -> Tensor:
            left, right = self.mask("left", left, present[:, 0]), self.mask("right", right, present[:, 1])
            return self.head(self.norm(self.left(left) + self.right(right)))

    network = Normed()
    before = network.norm.running_mean.clone()
    report = ss.audit(network, [draw(MODALITIES, 16)], modalities=MODALITIES)
    texts = " ".join(fault.text for fault in report.of("statistics"))
    assert "norm (BatchNorm1d)" in texts
    assert "other rows of the batch lack right" in texts
    assert torch.equal(network.norm.running_mean, before)
    assert network.training
    assert not ss.audit(network.eval(), [draw(MODALITIES, 16)], modalities=MODALITIES).of("statistics")


def test_a_combination_without_a_set_is_not_checked_and_said() -> None:
    network, options = make("towers")
    robust = ss.adapt(network, **options)
    robust.mark_trained("left")
    report = ss.audit(robust, [draw(MODALITIES, 8)])
    assert "no adapter set was trained for right" in report.of("not checked")[0].text


def test_rows_are_counted_by_what_they_have() -> None:
    present = torch.tensor([[1, 1], [1, 0], [1, 0], [0, 1]]).bool()
    report = ss.audit(Masked().eval(), [draw(MODALITIES, 4) | {"present": present}] * 2, modalities=MODALITIES)
    assert report.combinations == {"left": 4, "left+right": 2, "right": 2}
    assert (report.num_rows, report.num_complete) == (8, 2)
    assert not report.leaks


def test_no_row_has_everything() -> None:
    present = torch.tensor([[1, 0], [0, 1]]).repeat(4, 1).bool()
    batch = draw(MODALITIES, 8) | {"present": present}
    assert not ss.audit(Masked().eval(), [batch], modalities=MODALITIES).leaks
    assert ss.audit(Multiplied().eval(), [batch], modalities=MODALITIES).leaks


def facts(values: Tensor) -> list[str]:
    found = DataFacts(ss.Modalities({"x": "N", "y": "N"}))
    for batch in values.split(7):
        found.update({"x": batch})
    return [f"{fault.kind}: {fault.text}" for fault in found.faults()]


@pytest.mark.parametrize(
    ("sentinel", "usual"), [(-9999, "normal"), (255, "classes"), (12345, "normal"), (0, "depth"), (-9999, "large")]
)
def test_a_number_that_says_no_value_is_found(sentinel: float, usual: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 40, generator=generator)
    values = {"normal": values, "classes": values.clamp(-2, 2).round() + 2, "large": 4000 * values.abs() + 100,
              "depth": 0.5 + 9 * torch.rand(50, 40, generator=generator)}[usual]  # fmt: skip
    assert not facts(values)
    where = torch.rand(50, 40, generator=generator) < 0.1
    [found] = facts(torch.where(where, float(sentinel), values))
    assert f"{sentinel:g} stands {int(where.sum()):,} times" in found


@pytest.mark.parametrize("worst", [float("nan"), float("inf"), 9.96921e36])
def test_what_is_no_number_is_found(worst: float) -> None:
    values = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    values[3:6, 2] = worst
    [found] = facts(values)
    assert "in 3 of 20 rows" in found


def test_rows_of_one_value_are_found_and_clipped_ones_are_not() -> None:
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert not facts(values)
    values[10:15] = 0.25
    [found] = facts(values)
    assert "5 of 50 rows hold one value throughout, mostly 0.25 (5)" in found


@pytest.mark.parametrize("width", [80, 160])
def test_the_page_fits_the_terminal(width: int) -> None:
    report = audited(Forgotten)
    text = report.text(width)
    assert max(map(len, text.splitlines())) <= width
    assert "LEAK  right: declared missing" in text


def test_a_network_that_is_not_adapted_must_say_its_modalities() -> None:
    with pytest.raises(ss.InputError, match="modalities="):
        ss.audit(Masked(), [draw(MODALITIES)])
    with pytest.raises(ss.InputError, match="at least one batch"):
        ss.audit(Masked(), [], modalities=MODALITIES)


def test_it_is_called_as_the_caller_says() -> None:
    report = audited(Forgotten, call=lambda network, inputs, present: network(inputs["left"], inputs["right"], present))
    assert len(report.leaks) == 1


# ---- the verb


def test_the_verb_audits_a_recipe_before_and_after_training(own: Path) -> None:
    assert "before any training" in run("audit", own).stderr
    page = succeed("audit", own, "--part", "train")
    assert "Nothing found" in page
    assert json.loads((own.parent / "run" / "audit.json").read_text("utf-8"))["num_rows"] == 48
    assert "<table" in (own.parent / "run" / "audit.html").read_text("utf-8")
    succeed("train", own)
    assert json.loads(succeed("audit", own, "--json"))["faults"] == []
    assert run("audit", own, "--part", "val").exit_code == 1


def test_the_verb_fails_on_a_leak(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = audited(Forgotten)
    monkeypatch.setattr("subsense.recipes.run.audit.ss.audit", lambda *_, **__: report)
    result = run("audit", own)
    assert result.exit_code == 1
    assert "LEAK  right" in result.stdout


WITH_DATA = ("digits", "utd-mhad", "cwfid", "cmu-mosi", "emoji")
WITHOUT_DATA = ("brats", "food101", "mfnet-small", "mosei-small", "mosi-small", "ntu-small")
"""One for each of the other networks; the other recipes have the same ones, larger or for other data."""
KINDS = ("leak", "mask", "ignored", "statistics")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DATA)
def test_no_leak_in_a_shipped_recipe(name: str, shared: Path, tmp_path: Path) -> None:
    found = json.loads(succeed("audit", name, "--root", shared / "data", "--output", tmp_path, "--json"))
    assert [one for one in found["faults"] if one["kind"] in KINDS] == []
    assert all(probe["leak"] == 0 for probe in found["probes"])


SMALLER = {
    "brats": ["network.options.window=[16, 16, 16]"],
    "food101": ["network.options={num_classes: 101, head: fresh, config: {image_size: 64, num_hidden_layers: 3}}"],
}
DRAWN = {
    "food101": {
        "image": {"pixel_values": "3 64 64", "pixel_mask": "64 64:int64"},
        "text": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), "40:int64"),
    },
    "ntu": {"rgb": "3 8 32 32", "depth": "1 8 32 32"},
    "mosi": {"text": "8 300", "audio": "8 5", "vision": "8 20"},
    "mosei": {"text": "8 300", "audio": "8 74", "vision": "8 35"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_no_leak_in_the_network_of_a_recipe_whose_data_are_not_here(name: str) -> None:
    """Its network with fresh weights and sets that act, on drawn rows of its data's shape."""
    recipe = load_recipe(name, SMALLER.get(name, []))
    modalities = DRAWN.get(recipe.data.name) or describe(recipe.data.name).modalities
    part = recipe.adapt
    robust = ss.adapt(
        fresh_network(recipe), modalities, call=make_call(recipe), method=make_methods(recipe), sharing=part.sharing,
        combinations=part.combinations, untrained="nearest", layers=make_layers(recipe), merge=part.merge,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in robust.adapter_parameters().values():
        parameter.data.normal_(std=0.02, generator=generator)
    robust.mark_trained(robust.combinations)
    report = ss.audit(robust, [drawn(modalities, generator)])
    assert [fault.text for fault in report.faults if fault.kind in KINDS] == []
    assert all(probe.leak == 0 for probe in report.probes)


def drawn(modalities: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """Draw four rows: maps have 32 places, volumes 16; masks leave nothing out."""

    def one(name: str, axes: str) -> Tensor:
        shape, _, dtype = axes.partition(":")
        sizes = [int(size) if size.isdigit() else 16 if "D" in shape else 32 for size in shape.split()]
        if not dtype:
            return torch.randn(4, *sizes, generator=generator)
        low, high = {"input_ids": (5, 99), "token_type_ids": (0, 1)}.get(name, (1, 2))
        return torch.randint(low, high, (4, *sizes), generator=generator)

    return {
        name: {part: one(part, axes) for part, axes in given.items()} if isinstance(given, dict) else one(name, given)
        for name, given in modalities.items()
    }
