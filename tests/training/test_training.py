import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from subsense.errors import DamagedFile, InputError, MetricError, ModalityError, NonFiniteLoss, TrainingError
from subsense.modalities import Modalities
from subsense.modalities.filling import Constant
from subsense.model.adapt import adapt
from subsense.model.robust import RobustModel
from subsense.training import Distill, TrainingReport, train
from training_examples import (
    CLASSES,
    SPEC,
    Noisy,
    Small,
    adapters,
    equal,
    make_loader,
    make_robust,
    ordered_loader,
    whole_batch,
)

SHARINGS = ["independent", "additive"]
QUIET: dict[str, Any] = {"progress": False}


def brief(robust: RobustModel, loader: Any = None, **options: Any) -> TrainingReport:
    """Train for a moment, and keep what comes out."""
    given = {"loss": cross_entropy, "epochs": 2, "seed": 1, "safe": False, **QUIET, **options}
    return train(robust, make_loader() if loader is None else loader, **given)


# ------------------------------------------------------------------------------------------------------------- the face


@pytest.mark.parametrize("sharing", SHARINGS)
def test_training_helps_where_modalities_are_missing(sharing: str) -> None:
    robust = make_robust(sharing=sharing)
    inputs, target = whole_batch()
    with torch.no_grad():
        before = [cross_entropy(robust.pretrained({name: inputs[name]}), target) for name in inputs]
    report = train(robust, make_loader(), loss=cross_entropy, progress=False)
    with torch.no_grad():
        after = [cross_entropy(robust({name: inputs[name]}), target) for name in inputs]
    assert all(late < 0.8 * early for early, late in zip(before, after, strict=True))
    assert report.steps == 20 * 6
    assert [epoch.epoch for epoch in report.history] == list(range(1, 21))
    assert report.history[-1].loss < report.history[0].loss
    assert report.history[0].rows == 48
    assert report.history[0].dropped == 0
    assert report.combinations == (tuple(map(str, robust.combinations)),)
    assert str(report).startswith("120 steps in ")
    assert json.loads(json.dumps(report.as_dict()))["steps"] == 120


def test_the_network_stays_as_it_was_in_every_bit() -> None:
    robust = make_robust()
    before = {name: value.clone() for name, value in robust.network.state_dict().items()}
    brief(robust, dropout=True)
    assert equal(before, robust.network.state_dict())
    assert all(parameter.grad is None for parameter in robust.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_modes_are_as_before_afterwards(mode: bool) -> None:
    robust = make_robust()
    robust.train(mode)
    before = [layer.training for layer in robust.modules()]
    brief(robust, dropout=True)
    assert [layer.training for layer in robust.modules()] == before


def test_random_states_are_as_before_afterwards() -> None:
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, generator=generator)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), generator.get_state())
    brief(make_robust(), loader, val_loader=loader)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), generator.get_state())
    assert before[:2] == after[:2]
    assert all(map(torch.equal, before[2:], after[2:]))


@pytest.mark.parametrize("seeded", [True, False])
def test_a_seed_decides_everything(seeded: bool) -> None:
    first, again, other = make_robust(), make_robust(), make_robust()
    for robust, seed, state in ((first, 1, 0), (again, 1, 99), (other, 2, 0)):
        torch.manual_seed(state)
        generator = torch.Generator().manual_seed(state) if seeded else None
        brief(robust, make_loader(generator=generator), seed=seed, dropout=True)
    assert equal(adapters(first), adapters(again))
    assert not equal(adapters(first), adapters(other))


def test_a_sampler_is_told_the_epoch() -> None:
    told: list[int] = []

    class Told(SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    brief(make_robust(), DataLoader(Noisy(), batch_size=8, sampler=Told(Noisy())), epochs=3)
    assert told == [0, 1, 2]


def test_a_list_of_batches_is_a_loader() -> None:
    report = brief(make_robust(), [whole_batch()] * 3)
    assert report.steps == 6


def test_what_was_trained_is_marked_and_can_be_used() -> None:
    robust = make_robust()
    brief(robust, combinations=["rgb", "depth+imu"])
    assert set(map(str, robust.trained)) == {"rgb", "depth+imu"}


def test_progress_goes_to_stderr_with_loss_and_metric(capsys: pytest.CaptureFixture[str]) -> None:
    brief(make_robust(), progress=True, val_loader=make_loader(), metric="accuracy")
    out, err = capsys.readouterr()
    assert out == ""
    assert "6 combinations" in err
    assert "loss=" in err
    assert "accuracy=" in err
    assert "12/12" in err


# ---------------------------------------------------------------------------------------- what trains, and what doesn't


@pytest.mark.parametrize("sharing", SHARINGS)
def test_bank_rows_that_are_not_used_stay_in_every_bit(sharing: str) -> None:
    robust = make_robust(sharing=sharing, method=["ssf", "lora"])
    brief(robust)
    before = adapters(robust)
    asked = ["rgb+depth", "rgb+imu"]
    brief(robust, combinations=asked, weight_decay=0.5, lr=0.1)
    used = robust.bank_rows(asked)
    assert used.any()
    assert not used.all()
    for name, value in adapters(robust).items():
        assert torch.equal(value[~used], before[name][~used]), name
        assert not torch.equal(value[used], before[name][used]), name


def test_weight_decay_pulls_to_the_identity() -> None:
    sizes = []
    for decay in (0.0, 5.0):
        robust = make_robust()
        brief(robust, epochs=20, weight_decay=decay)
        sizes.append(sum(float(value.square().sum()) for value in adapters(robust).values()))
    assert sizes[1] < sizes[0] / 4


def test_separate_training_is_each_combination_trained_alone() -> None:
    together, alone = make_robust(), make_robust()
    report = brief(together, strategy="separate")
    assert len(report.combinations) == 6
    assert report.steps == 6 * 12
    for combination in reversed(alone.combinations):
        brief(alone, combinations=[combination], strategy="separate")
    assert equal(adapters(together), adapters(alone))


def test_separate_and_joint_agree_on_one_combination() -> None:
    separate, joint = make_robust(), make_robust()
    brief(separate, combinations=["rgb"], strategy="separate")
    brief(joint, combinations=["rgb"])
    assert equal(adapters(separate), adapters(joint))


def test_only_dropout_layers_drop_and_only_if_asked() -> None:
    seen: list[tuple[bool, bool]] = []

    def look(module: nn.Module, *_: Any) -> None:
        seen.append((robust.network.drop.training, robust.network.norm.training))

    robust = make_robust()
    handle = robust.network.drop.register_forward_hook(look)
    brief(robust, epochs=1)
    assert set(seen) == {(False, False)}
    seen.clear()
    brief(robust, epochs=1, dropout=True, val_loader=[whole_batch()])
    assert set(seen[:6]) == {(True, False)}
    assert set(seen[6:]) == {(False, False)}
    handle.remove()


def test_dropout_does_not_depend_on_what_the_data_drew() -> None:
    drawing, listed = make_robust(), make_robust()
    brief(drawing, ordered_loader(batch_size=8), dropout=True)
    brief(listed, list(ordered_loader(batch_size=8)), dropout=True)
    assert equal(adapters(drawing), adapters(listed))


def test_the_loop_is_plain_adamw() -> None:
    """Hold one epoch against a loop written out by hand."""
    robust, by_hand = make_robust(combinations=["rgb"]), make_robust(combinations=["rgb"])
    batches = [({name: value[i : i + 8] for name, value in whole_batch()[0].items()}, whole_batch()[1][i : i + 8])
               for i in range(0, 48, 8)]  # fmt: skip
    train(robust, batches, loss=cross_entropy, epochs=1, lr=0.02, weight_decay=0.1, clip=0.5, schedule="constant",
          warmup=0, **QUIET)  # fmt: skip
    by_hand.train()
    parameters = list(by_hand.adapter_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1)
    for inputs, target in batches:
        optimizer.zero_grad()
        cross_entropy(by_hand({"rgb": inputs["rgb"]}), target).backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    for name, value in adapters(robust).items():
        assert torch.allclose(value, adapters(by_hand)[name], rtol=1e-4, atol=1e-6), name


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    small, large = make_robust(combinations=["rgb"]), make_robust(combinations=["rgb"])
    inputs, target = whole_batch(20)
    pieces = [({name: value[a:b] for name, value in inputs.items()}, target[a:b]) for a, b in ((0, 4), (4, 6), (6, 20))]
    options: dict[str, Any] = {"loss": cross_entropy, "epochs": 3, **QUIET}
    report = train(small, pieces, accumulate=3, **options)
    train(large, [(inputs, target)], **options)
    assert report.steps == 3
    for name, value in adapters(small).items():
        assert torch.allclose(value, adapters(large)[name], rtol=1e-4, atol=1e-6), name


def test_the_last_batches_of_an_epoch_make_a_step_too() -> None:
    assert brief(make_robust(), accumulate=4, epochs=3).steps == 2 * 3


def test_bf16_trains_adapters_in_float32() -> None:
    seen: list[torch.dtype] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(output.dtype)
        return cross_entropy(output, target)

    exact, rough = make_robust(), make_robust()
    brief(exact)
    brief(rough, loss=loss, precision="bf16")
    assert set(seen) == {torch.float32}
    assert all(value.dtype == torch.float32 for value in adapters(rough).values())
    assert not equal(adapters(exact), adapters(rough))
    for name, value in adapters(rough).items():
        assert torch.allclose(value, adapters(exact)[name], atol=0.05), name


def test_select_is_what_the_loss_sees_of_a_structured_output() -> None:
    class Structured(Small):
        def forward(self, rgb: Tensor, depth: Tensor, imu: Tensor) -> Any:
            return {"scores": super().forward(rgb, depth, imu), "other": None}

    robust = adapt(Structured(), {"rgb": "4", "depth": "6", "imu": "3"})
    brief(robust, loss=lambda output, target: cross_entropy(output["scores"], target))
    brief(robust, select=lambda output: output["scores"], val_loader=make_loader(), metric="accuracy")
    with pytest.raises(MetricError, match="pass select="):
        brief(robust, loss="distill")


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_learned_fill_trains_for_what_is_missing_alone(sharing: str) -> None:
    robust = make_robust(sharing=sharing, fill="learned")
    brief(robust, combinations=["rgb+depth"], weight_decay=0.1)
    fills = {name: value for name, value in adapters(robust).items() if name.startswith("fill.")}
    moved = {name.split(".")[1] for name, value in fills.items() if value.any()}
    assert moved == {"imu"}


def test_a_learned_fill_stays_whatever_the_modality_is_called() -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, CLASSES)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(torch.cat(list(inputs.values()), 1))

    robust = adapt(Numbered(), {"cam.0": "2", "cam.1": "2", "imu:left": "2"}, call="dict", fill="learned")
    rows = {name: torch.ones(4, 2) for name in robust.modalities}
    loader = [(rows, torch.zeros(4, dtype=torch.int64))]
    brief(robust, loader, combinations=["cam.0"])
    before = {name: value.clone() for name, value in robust.fill.stand_ins().items()}
    brief(robust, loader, combinations=["cam.1"], weight_decay=0.1)
    moved = [name for name, value in robust.fill.stand_ins().items() if not torch.equal(value, before[name])]
    assert moved == ["fill.cam%2E0.cam.0"]


def test_a_learned_fill_of_an_earlier_set_stays() -> None:
    robust = make_robust(fill="learned")
    brief(robust, combinations=["rgb+depth"])
    inputs, _ = whole_batch()
    inputs.pop("imu")
    before = robust(inputs)
    brief(robust, combinations=["rgb"])
    assert torch.equal(robust(inputs), before)


# ------------------------------------------------------------------------------------ data that lacks modalities itself


def lacking(present: list[list[bool]]) -> tuple[dict[str, Tensor], Tensor]:
    """Make a batch whose missing values are poison."""
    inputs, target = whole_batch(len(present))
    flags = torch.tensor(present)
    for column, name in enumerate(inputs):
        inputs[name] = torch.where(flags[:, column, None], inputs[name], float("nan"))
    return {**inputs, "present": flags}, target


def test_rows_train_only_on_what_they_have() -> None:
    robust = make_robust()
    batch = lacking([[True, True, True], [True, True, False], [False, True, True], [False, False, True]])
    report = brief(robust, [batch], epochs=30)
    assert report.history[0].rows == 4
    assert set(map(str, robust.trained)) <= set(map(str, robust.combinations))
    assert all(value.isfinite().all() for value in adapters(robust).values())


def test_rows_that_nothing_fits_are_left_out_and_counted() -> None:
    robust = make_robust()
    batch = lacking([[True, True, True], [True, True, False], [False, True, True], [False, False, True]])
    report = brief(robust, [batch, lacking([[False, False, True]])], combinations=["rgb"], epochs=3)
    assert [(epoch.rows, epoch.dropped) for epoch in report.history] == [(2, 3)] * 3
    assert list(map(str, robust.trained)) == ["rgb"]


def test_a_modality_that_is_not_passed_is_missing_in_every_row() -> None:
    inputs, target = whole_batch(8)
    del inputs["rgb"]
    robust = make_robust()
    report = brief(robust, [({**inputs, "rgb": None}, target), (inputs, target)])
    assert set(map(str, robust.trained)) == {"depth", "imu", "depth+imu"}
    assert sum(report.rows.values()) == 2 * 16
    assert str(report).endswith("not trained, since no row was drawn for them: rgb, rgb+depth, rgb+imu")


def test_an_epoch_without_any_row_is_refused() -> None:
    robust = make_robust()
    before = adapters(robust)
    with pytest.raises(TrainingError, match=r"epoch 1: no row of the loader has rgb or rgb\+imu; all 2 were left out"):
        brief(robust, [lacking([[False, True, True], [False, False, True]])], combinations=["rgb", "rgb+imu"])
    assert equal(before, adapters(robust))


def test_targets_of_other_shapes_are_taken_row_by_row() -> None:
    batch, target = lacking([[True, True, True], [False, True, True], [True, True, False]])
    seen: list[Any] = []

    def loss(output: Tensor, target: Any) -> Tensor:
        seen.append(target)
        return cross_entropy(output, target["label"])

    extra = {"label": target, "names": ["a", "b", "c"], "pair": (target, torch.ones(3)), "size": 7}
    brief(make_robust(), [(batch, extra)], loss=loss, combinations=["rgb"], epochs=1)
    assert seen[0]["names"] == ["a", "c"]
    assert torch.equal(seen[0]["label"], target[[0, 2]])
    assert torch.equal(seen[0]["pair"][1], torch.ones(2))
    assert seen[0]["size"] == 7


# --------------------------------------------------------------------------------------------------------- distillation


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("with_target", [False, True])
def test_distilling_reads_no_labels(sharing: str, with_target: bool) -> None:
    robust = make_robust(sharing=sharing)
    inputs, _ = whole_batch()
    wanted = robust(inputs)

    def distance(model: Any) -> float:
        with torch.no_grad():
            return sum(float(mse_loss(model({name: value}), wanted)) for name, value in inputs.items())

    train(robust, [(inputs, object()) if with_target else inputs], loss="distill", epochs=60, lr=0.03, **QUIET)
    assert distance(robust) < 0.5 * distance(robust.pretrained)


def test_the_teacher_is_the_whole_network_without_dropout_or_adapters() -> None:
    robust = make_robust()
    brief(robust)
    inputs, _ = whole_batch()
    seen: list[Tensor] = []

    class Spy(Distill):
        def compare(self, scores: Tensor, target: Tensor) -> Tensor:
            seen.append(target)
            return super().compare(scores, target)

    train(robust, [inputs], loss=Spy(), epochs=1, dropout=True, **QUIET)
    assert torch.equal(seen[0], robust.network.eval()(**inputs))


def test_soft_targets_follow_the_paper() -> None:
    scores, target = torch.randn(5, 4), torch.randn(5, 4)
    soft = (target / 3).softmax(1)
    expected = -(soft * (scores / 3).log_softmax(1)).sum(1).mean() * 9
    assert torch.allclose(Distill(temperature=3.0).compare(scores, target), expected)


def test_soft_targets_are_compared_for_each_pixel() -> None:
    scores, target = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    flat = [value.movedim(1, -1).reshape(-1, 4) for value in (scores, target)]
    assert torch.allclose(Distill(rarity=0.0).compare(scores, target), Distill().compare(*flat))
    last = Distill(class_axis=-1).compare(scores.movedim(1, -1), target.movedim(1, -1))
    assert torch.allclose(last, Distill().compare(scores, target))


def test_a_rare_class_counts_as_much_as_its_rarity_says() -> None:
    target = torch.zeros(1, 2, 1, 100)
    target[:, 0, :, :90], target[:, 1, :, 90:] = 9.0, 9.0  # 90 pixels of one class, 10 of the other
    wrong_where_rare, wrong_where_common = target.clone(), target.clone()
    wrong_where_rare[..., 90:], wrong_where_common[..., 80:90] = 0.0, 0.0
    for rarity, times in ((0.0, 1.0), (0.5, 3.0), (1.0, 9.0)):
        distill = Distill(temperature=1.0, rarity=rarity)
        floor = distill.compare(target, target)
        rare, common = (distill.compare(one, target) - floor for one in (wrong_where_rare, wrong_where_common))
        assert rare / common == pytest.approx(times, rel=1e-4)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_values_are_compared_by_mean_squared_error(shape: tuple[int, ...]) -> None:
    scores, target = torch.randn(shape), torch.randn(shape)
    assert torch.equal(Distill().compare(scores, target), mse_loss(scores, target))
    wide = torch.randn(5, 3), torch.randn(5, 3)
    assert torch.equal(Distill(scores="values").compare(*wide), mse_loss(*wide))


def test_a_task_loss_can_be_mixed_in() -> None:
    only, mixed, task = make_robust(), make_robust(), make_robust()
    brief(only, loss=Distill())
    brief(mixed, loss=Distill(task=cross_entropy, task_weight=0.5))
    brief(task, loss=Distill(task=cross_entropy, task_weight=1.0))
    by_task = make_robust()
    brief(by_task)
    assert not equal(adapters(only), adapters(mixed))
    assert all(torch.allclose(value, adapters(by_task)[name], atol=1e-6) for name, value in adapters(task).items())


def test_incomplete_rows_cannot_be_distilled() -> None:
    batch, _ = lacking([[True, True, True], [True, True, False]])
    report = brief(make_robust(), [batch], loss="distill", combinations=["rgb"])
    assert (report.history[0].rows, report.history[0].dropped) == (1, 1)
    with pytest.raises(TrainingError, match="no row of the loader is complete, which 'distill' needs"):
        brief(make_robust(), [lacking([[True, True, False]])[0]], loss="distill", combinations=["rgb"])


# ----------------------------------------------------------------------------------------------------------- validation


def scripted(*values: float) -> Metric:
    """Make a metric that gives these values, whatever it is shown."""
    left = iter(values)

    class Scripted(Metric):
        higher_is_better = True

        def update(self, *_: Tensor) -> None: ...

        def compute(self) -> Tensor:
            return torch.tensor(next(left))

    return Scripted()


@pytest.mark.parametrize("values", [(0.1, 0.5, 0.25, 0.5, 0.0), (float("nan"), 0.5, 0.25, float("nan"), 0.0)])
def test_the_best_epoch_is_kept(values: tuple[float, ...]) -> None:
    robust, short = make_robust(), make_robust()
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0, "combinations": ["rgb"]}
    report = brief(robust, epochs=5, val_loader=make_loader(), metric=scripted(*values), **options)
    assert report.best[0].epoch == 2
    assert report.best_metric == 0.5
    brief(short, epochs=2, **options)
    assert equal(adapters(robust), adapters(short))


def test_a_metric_is_the_mean_over_combinations() -> None:
    robust = make_robust()
    inputs, target = whole_batch()
    report = brief(robust, epochs=1, val_loader=[(inputs, target)], metric="accuracy")
    hits = []
    for combination in robust.combinations:
        scores = robust({name: inputs[name] for name in combination})
        hits.append(float((scores.argmax(1) == target).float().mean()))
    assert report.metric == "accuracy"
    assert report.best_metric == pytest.approx(sum(hits) / 6)


def test_a_torchmetrics_object_measures_as_a_name_does() -> None:
    metric = MulticlassAccuracy(num_classes=CLASSES, average="micro")
    named, given = (brief(make_robust(), val_loader=make_loader(), metric=one) for one in ("accuracy", metric))
    assert [epoch.metric for epoch in named.history] == [epoch.metric for epoch in given.history]


@pytest.mark.parametrize("loss", [cross_entropy, "distill"])
def test_validation_measures_the_loss_by_default(loss: Any) -> None:
    report = brief(make_robust(), loss=loss, val_loader=make_loader(), epochs=3)
    assert report.metric == "loss"
    assert not report.higher_is_better
    assert report.best_metric == min(epoch.metric for epoch in report.history if epoch.metric is not None)


def test_validation_uses_rows_that_have_the_combination() -> None:
    batch = lacking([[True, True, True], [False, True, True]])
    report = brief(make_robust(), combinations=["rgb", "imu"], val_loader=[batch], metric="accuracy")
    assert report.best_metric is not None
    with pytest.raises(TrainingError, match=r"val_loader: no row has rgb\+imu"):
        brief(make_robust(), combinations=["rgb+imu"], val_loader=[lacking([[False, True, True]])])


def test_every_epoch_is_measured_on_the_same_data() -> None:
    generator = torch.Generator().manual_seed(0)
    report = brief(make_robust(), lr=1e-12, epochs=4, val_loader=make_loader(noise=1.0, generator=generator))
    assert len({epoch.metric for epoch in report.history}) == 1


def test_patience_stops_early() -> None:
    report = brief(make_robust(), lr=1e-12, epochs=50, patience=3, val_loader=[whole_batch()], metric="accuracy")
    assert len(report.history) == 4
    assert report.best[0].epoch == 1


def test_validation_does_not_disturb_training() -> None:
    with_, without = make_robust(), make_robust()
    brief(with_, val_loader=make_loader(), metric="accuracy", epochs=1)
    brief(without, epochs=1)
    assert equal(adapters(with_), adapters(without))


# ------------------------------------------------------------------------------------------------------ stop and resume


class Stop(Exception):
    pass


class StopAt:
    """Be a loss that stops the run at its n-th call."""

    __qualname__ = "cross_entropy"

    def __init__(self, call: int | None = None) -> None:
        self.calls, self.last = 0, call

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise Stop
        return cross_entropy(output, target)


RUNS: dict[str, dict[str, Any]] = {
    "joint": {},
    "additive": {"adapt": {"sharing": "additive"}},
    "separate": {"strategy": "separate", "combinations": ["rgb", "rgb+imu"]},
    "accumulated": {"accumulate": 4, "clip": 0.1},
    "dropout": {"dropout": True, "precision": "bf16"},
    "validated": {"val_loader": True, "metric": "accuracy", "lr": 1.0, "patience": 2},
    "distilled": {"distill": True},
    "own generator": {"generator": True},
    "degraded": {"degrade": ["noise", "dead-channels"], "adapt": {"sharing": "additive"}},
}


def run_of(name: str, folder: Path | None, stop: int | None = None, resume: bool = False, save_every: int | None = 2):
    """Run one of RUNS, to the end or to a stop."""
    options = {"epochs": 3, "weight_decay": 0.01, **RUNS[name]}
    torch.manual_seed(random.SystemRandom().randrange(1000))  # nothing may hang on the caller's random state
    robust = make_robust(**options.pop("adapt", {}))
    loss: Any = StopAt(stop)
    loss = Distill(task=loss, task_weight=0.5) if options.pop("distill", False) else loss
    generator = torch.Generator().manual_seed(4) if options.pop("generator", False) else None
    if options.pop("val_loader", False):
        options["val_loader"] = make_loader()
    report = None
    try:
        report = brief(robust, make_loader(generator=generator), loss=loss, folder=folder, resume=resume,
                       save_every=save_every if folder else None, **options)  # fmt: skip
    except Stop:
        assert stop is not None
    return robust, report


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, report = run_of(name, None)
    for stop in (1, 5, 9):
        run_of(name, tmp_path / str(stop), stop=stop)
        robust, resumed = run_of(name, tmp_path / str(stop), resume=True)
        assert equal(adapters(robust), adapters(whole)), stop
        assert report is not None
        assert resumed is not None
        assert resumed.history == report.history
        assert resumed.steps == report.steps


def test_a_run_can_be_stopped_again_and_again(tmp_path: Path) -> None:
    whole, _ = run_of("joint", None)
    for _ in range(8):
        run_of("joint", tmp_path, stop=4, resume=True)
    robust, _ = run_of("joint", tmp_path, resume=True)
    assert equal(adapters(robust), adapters(whole))


def test_the_state_is_kept_after_every_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"folder": tmp_path, "epochs": 3}
    with pytest.raises(Stop):
        brief(make_robust(), loss=StopAt(15), **options)
    resumed, whole, left = make_robust(), make_robust(), StopAt()
    brief(resumed, loss=left, resume=True, **options)
    brief(whole, epochs=3)
    assert left.calls == 6
    assert equal(adapters(whole), adapters(resumed))


def test_a_finished_run_is_read_back_without_training(tmp_path: Path) -> None:
    whole, report = run_of("validated", tmp_path)
    again, same = run_of("validated", tmp_path, stop=1, resume=True)
    assert equal(adapters(whole), adapters(again))
    assert same is not None
    assert report is not None
    assert same.history == report.history
    assert again.trained == whole.trained


def test_a_state_is_never_overwritten_by_a_new_run(tmp_path: Path) -> None:
    run_of("joint", tmp_path, stop=5)
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds the state of a run already: pass resume=True"):
        run_of("joint", tmp_path)
    assert (tmp_path / "training.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 5}, "epochs was 3 and is 5"),
        ({"lr": 0.5}, "lr was 0.01 and is 0.5"),
        ({"seed": 9}, "seed was 1 and is 9"),
        ({"combinations": ["rgb"]}, "combinations was "),
        ({"loss": mse_loss}, 'loss was "cross_entropy" and is "mse_loss"'),
        ({"weights": {"rgb": 3.0}}, "weights was "),
    ],
)
def test_another_runs_state_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    run_of("joint", tmp_path, stop=5)
    robust = make_robust()
    before = adapters(robust)
    with pytest.raises(TrainingError, match=message):
        brief(robust, folder=tmp_path, resume=True, **{"epochs": 3, "weight_decay": 0.01, **changed})
    assert equal(adapters(robust), before)


def test_another_networks_state_is_refused(tmp_path: Path) -> None:
    run_of("joint", tmp_path, stop=5)
    robust = make_robust()
    with torch.no_grad():
        robust.network.head.bias[0] += 1
    with pytest.raises(TrainingError, match="network was "):
        brief(robust, folder=tmp_path, resume=True, epochs=3, weight_decay=0.01)


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", b"half of it"])
def test_a_damaged_state_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "training.safetensors").write_bytes(content)
    with pytest.raises(DamagedFile, match="delete it to start anew"):
        run_of("joint", tmp_path, resume=True)


def test_a_truncated_state_is_refused(tmp_path: Path) -> None:
    run_of("joint", tmp_path, stop=5)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedFile, match=r"training\.safetensors"):
        run_of("joint", tmp_path, resume=True)


@pytest.mark.parametrize("place", [-1, 300])
def test_a_flipped_bit_in_a_state_is_refused(place: int, tmp_path: Path) -> None:
    run_of("joint", tmp_path, stop=5)
    path = tmp_path / "training.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match=r"training\.safetensors"):
        run_of("joint", tmp_path, resume=True)


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from torch.nn.functional import cross_entropy
from training_examples import make_loader, make_robust
from subsense.training import train

def slow(output, target):
    time.sleep(0.01)
    return cross_entropy(output, target)

slow.__qualname__ = "cross_entropy"
torch.set_num_threads(1)
train(make_robust(), make_loader(), loss=slow, epochs=20, seed=1, folder=sys.argv[2], resume=True, save_every=1,
      progress=False)
"""


def kill_after(saves: int, command: list[str], state: Path) -> None:
    """Run a command, and kill it once its state has been saved so many times."""
    process = subprocess.Popen(command)
    seen, end = {state.stat().st_mtime_ns if state.exists() else 0}, time.monotonic() + 120
    while len(seen) <= saves:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.002)
        seen |= {state.stat().st_mtime_ns} if state.exists() else set()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_stopped_run_with_worker_processes_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = make_robust(), make_robust()
    brief(whole, make_loader(num_workers=2))
    with pytest.raises(Stop):
        brief(make_robust(), make_loader(num_workers=2), loss=StopAt(9), folder=tmp_path, save_every=2)
    brief(resumed, make_loader(num_workers=2), folder=tmp_path, resume=True)
    assert equal(adapters(whole), adapters(resumed))


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path)]
    for saves in (3, 10, 20):
        kill_after(saves, command, tmp_path / "training.safetensors")
    torch.set_num_threads(1)
    options: dict[str, Any] = {"loss": cross_entropy, "epochs": 20, "seed": 1, **QUIET}
    resumed, whole = make_robust(), make_robust()
    report = train(resumed, make_loader(), folder=tmp_path, resume=True, **options)
    train(whole, make_loader(), **options)
    assert report.steps == 120
    assert equal(adapters(resumed), adapters(whole))


# ----------------------------------------------------------------------------------------------------------- not finite


def test_a_loss_of_nan_names_step_and_combinations_and_keeps_the_last_good_state() -> None:
    robust, twin = make_robust(check_inputs=False), make_robust(check_inputs=False)
    good = whole_batch(8)
    poison = {name: value.clone() for name, value in good[0].items()}
    poison["imu"][:] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"step 3 \(epoch 1, batch 3\): the loss is nan for rows with") as caught:
        brief(robust, [good, good, (poison, good[1]), good], schedule="constant", warmup=0)
    named = str(caught.value).split("rows with ")[1].split(".")[0].split(", ")
    assert named
    assert all("imu" in name for name in named)
    brief(twin, [good, good], epochs=1, schedule="constant", warmup=0)
    assert equal(adapters(robust), adapters(twin))
    assert all(parameter.grad is None for parameter in robust.parameters())


def test_an_accumulated_batch_of_nan_moves_nothing() -> None:
    robust = make_robust(check_inputs=False)
    before = adapters(robust)
    good = whole_batch(8)
    poison = {name: torch.full_like(value, float("nan")) for name, value in good[0].items()}
    with pytest.raises(NonFiniteLoss, match=r"step 1 \(epoch 1, batch 2\)"):
        brief(robust, [good, (poison, good[1])], accumulate=2)
    assert equal(before, adapters(robust))
    assert all(parameter.grad is None for parameter in robust.parameters())


def test_a_gradient_of_nan_stops_before_the_step() -> None:
    robust = make_robust()
    before = adapters(robust)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - output.detach()).square().sum().sqrt()

    with pytest.raises(NonFiniteLoss, match=r"its gradient is NaN or infinite for rows with .* at "):
        brief(robust, loss=loss)
    assert equal(before, adapters(robust))


def test_the_state_on_disk_is_from_before_the_nan(tmp_path: Path) -> None:
    good = whole_batch(8)
    poison = {name: torch.full_like(value, float("nan")) for name, value in good[0].items()}
    robust = make_robust(check_inputs=False)
    for _ in range(2):
        with pytest.raises(NonFiniteLoss, match=r"batch 3"):
            brief(robust, [good, good, (poison, good[1])], folder=tmp_path, save_every=1, resume=True)
    assert all(value.isfinite().all() for value in adapters(robust).values())


# -------------------------------------------------------------------------------------------------------- bad arguments


class Unmeasured(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for _ in range(3):
            yield whole_batch(8)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"strategy": "jont"}, TrainingError, "strategy: expected one of joint, separate, .* Did you mean 'joint'"),
    ({"schedule": "cosin"}, TrainingError, "schedule: .* Did you mean 'cosine'"),
    ({"precision": "fp16"}, TrainingError, "precision: expected one of no, bf16"),
    ({"log_with": "wandb", "folder": "x"}, TrainingError, "log_with: expected one of tensorboard"),
    ({"log_with": "tensorboard"}, TrainingError, "log_with='tensorboard' needs a folder"),
    ({"epochs": 0}, TrainingError, "epochs: expected a whole number above 0, but found 0"),
    ({"epochs": 1.5}, TrainingError, "epochs: expected a whole number"),
    ({"lr": 0}, TrainingError, "lr: expected a number above 0"),
    ({"lr": float("nan")}, TrainingError, "lr: expected a number above 0"),
    ({"lr": -1, "epochs": 0}, TrainingError, "epochs: .*; lr: "),
    ({"weight_decay": -0.1}, TrainingError, "weight_decay: expected a number, 0 or more"),
    ({"warmup": -1}, TrainingError, "warmup: expected a number, 0 or more"),
    ({"clip": 0.0}, TrainingError, "clip: expected a number above 0"),
    ({"accumulate": 0}, TrainingError, "accumulate: expected a whole number above 0"),
    ({"seed": -1}, TrainingError, "seed: expected a whole number, 0 or more"),
    ({"save_every": 3}, TrainingError, "save_every=3 needs a folder"),
    ({"resume": True}, TrainingError, "resume=True needs a folder"),
    ({"patience": 2}, TrainingError, "patience: needs val_loader"),
    ({"metric": "accuracy"}, TrainingError, "metric: needs val_loader"),
    ({"metric": "acuracy", "val_loader": [whole_batch()]}, MetricError, "Did you mean 'accuracy'"),
    ({"val_loader": []}, TrainingError, "val_loader: expected at least one batch"),
    ({"combinations": ["rgb", "deph"]}, ModalityError, "Did you mean 'depth'"),
    ({"combinations": ["rgb+imu"]}, ModalityError, r"rgb\+imu have no adapter set; those that have one are rgb, depth"),
    ({"combinations": []}, ModalityError, "empty list"),
    ({"combinations": ["rgb+depth+imu"]}, ModalityError, "lacks nothing"),
    ({"weights": {"rgb": -1.0}}, TrainingError, "weights: expected a number, 0 or more, for rgb, but found -1"),
    ({"weights": {"rgb": 0.0, "depth": 0.0}}, TrainingError, "weights: expected at least one above 0"),
    ({"weights": {"imu": 1.0}}, ModalityError, "weights: imu is not among the combinations"),
    ({"weights": {"rgb": 1.0}, "strategy": "separate"}, TrainingError, "weights: strategy 'separate' draws nothing"),
    ({"loss": "distil"}, TrainingError, "loss: expected .* Did you mean 'distill'"),
    ({"loss": 3}, TrainingError, "loss: expected"),
    ({"loader": []}, TrainingError, "loader: expected at least one batch, but it is empty"),
    ({"loader": iter([])}, TrainingError, "loader: expected a DataLoader or a list of batches"),
    ({"loader": 3}, TrainingError, "loader: expected a DataLoader or a list of batches"),
    ({"loader": DataLoader(Unmeasured(), batch_size=None)}, TrainingError, "use schedule='constant'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[f"{list(bad[0])}-{bad[2]}" for bad in BAD])
def test_bad_arguments_are_found_before_anything_changes(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    robust = make_robust(combinations=["rgb", "depth"])
    before, modes = adapters(robust), [layer.training for layer in robust.modules()]
    with pytest.raises(error, match=message):
        brief(robust, **options)
    assert equal(before, adapters(robust))
    assert modes == [layer.training for layer in robust.modules()]
    assert robust.trained == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharing": "additive"}, "strategy 'separate' needs sharing='independent', but found 'additive'"),
        ({"fill": "learned"}, "strategy 'separate' can't train a learned fill"),
    ],
)
def test_what_combinations_share_cannot_be_trained_separately(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        brief(make_robust(**options), strategy="separate")


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (whole_batch()[0], InputError, r"expected \(inputs, target\), but found inputs alone; .*loss='distill'"),
        (
            (torch.ones(2), torch.ones(2)),
            InputError,
            r"a batch of the loader: expected \(\{modality: tensor\}, target\)",
        ),
        (torch.ones(2), InputError, "a batch of the loader: expected"),
        (({"rgb": torch.ones(2, 4), "present": torch.ones(2, 3).int()}, torch.ones(2)), InputError, "expected a bool"),
        (({"depht": torch.ones(2, 6)}, torch.zeros(2).long()), InputError, "unknown modality 'depht'.* mean 'depth'"),
    ],
)
def test_bad_batches_are_refused(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        brief(make_robust(), [batch])


@pytest.mark.parametrize("loss", [lambda output, target: output, lambda output, target: 1.0])
def test_a_loss_must_be_a_scalar_tensor(loss: Any) -> None:
    with pytest.raises(TrainingError, match=r"loss: expected a scalar tensor, but .* gave"):
        brief(make_robust(), loss=loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature: expected a number above 0"),
        ({"scores": "class"}, "Did you mean 'classes'"),
        ({"task_weight": 2}, "task_weight: expected 0 to 1"),
        ({"task": cross_entropy}, "expected both or neither"),
        ({"task_weight": 0.5}, "expected both or neither"),
    ],
)
def test_a_distill_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Distill(**options)


def test_a_loader_of_unknown_length_trains_at_a_constant_rate() -> None:
    report = brief(make_robust(), DataLoader(Unmeasured(), batch_size=None), schedule="constant", epochs=2)
    assert report.steps == 6


# ---------------------------------------------------------------------------------------------------- several processes

PROCESSES = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from training_examples import adapters, make_loader, make_robust, ordered_loader
from subsense.training.baselines import finetune
from subsense.training import train
from subsense.training.sampling import Draw

torch.set_num_threads(1)
drawn = []
of = Draw.of

def spy(self, first, count):
    drawn.append(of(self, first, count))
    return drawn[-1]

Draw.of = spy
index = int(os.environ["RANK"])
torch.manual_seed(index)  # the processes' own random states differ
folder, options = Path(sys.argv[2]), {"loss": cross_entropy, "progress": False}
robust, one = make_robust(method=["ssf", "lora"]), make_robust()
report = train(robust, make_loader(num_rows=40), epochs=3, val_loader=make_loader(), metric="accuracy",
               folder=folder / "state", **options)
rows = [one.which.tolist() for one in drawn]
tuned = finetune(robust, make_loader(num_rows=40), epochs=2, **options)
train(one, ordered_loader(batch_size=4), epochs=2, combinations=["rgb"], **options)
digests = [hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()
           for module in (robust, tuned, one)]
said = {"index": index, "digests": digests, "rows": rows, "steps": report.steps,
        "seen": report.history[0].rows, "counted": sum(report.rows.values()), "metric": report.best_metric}
(folder / f"{index}.json").write_text(json.dumps(said))
if index == 0:
    save_file(adapters(one), folder / "adapters.safetensors")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerator(cpu=True)  # of one process, and from now on the one that all get
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="launched as 2 processes, but accelerate sees 1"):
        brief(make_robust())


@pytest.mark.slow
def test_two_processes_agree_and_draw_different_combinations(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    # What `accelerate launch` runs for several GPUs; for several CPU processes it would want MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(Path(__file__).parents[1]), str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{index}.json").read_text()) for index in (0, 1))
    assert (one["index"], two["index"]) == (0, 1)
    assert one["digests"] == two["digests"]
    assert one["metric"] == two["metric"]
    assert one["rows"] != two["rows"]
    assert one["steps"] == 9  # 5 batches for two processes: 3 steps in each epoch, the last with the first batch again
    assert one["seen"] == 48
    assert one["counted"] == 3 * 48
    alone = make_robust()
    brief(alone, ordered_loader(batch_size=8), combinations=["rgb"], seed=0)
    for name, value in load_file(tmp_path / "adapters.safetensors").items():
        assert torch.allclose(value, adapters(alone)[name], rtol=1e-4, atol=1e-6), name


# ---------------------------------------------------------------------------------------------------------- TensorBoard


def test_curves_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    brief(make_robust(), folder=tmp_path, log_with="tensorboard", val_loader=make_loader(), metric="accuracy")
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_modalities_of_several_arguments_are_drawn_row_by_row() -> None:
    modalities = Modalities({"text": {"ids": "L:int64", "mask": "L:int64"}, "image": "3"})

    class TextImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.image, self.head = nn.Embedding(5, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
            return self.head((self.words(ids) * mask[..., None]).mean(1) + self.image(image))

    robust = adapt(TextImage(), modalities)
    text = {"ids": torch.ones(4, 6).long(), "mask": torch.ones(4, 6).long()}
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    batch = {"text": text, "image": torch.randn(4, 3), "present": present}
    report = brief(robust, [(batch, torch.tensor([0, 1, 0, 1]))], combinations=["image"])
    assert report.history[0].rows == 3


@pytest.mark.parametrize("strategy", ["joint", "separate"])
def test_adapters_on_which_nothing_depends_are_named(strategy: str) -> None:
    class Unused(Small):
        def forward(self, rgb: Tensor, depth: Tensor, imu: Tensor) -> Tensor:
            self.unused = self.drop(self.norm(self.rgb(rgb)))
            return self.head(self.rgb(rgb) + self.depth(depth) + self.imu(imu))

    robust = adapt(Unused(), SPEC)
    report = brief(robust, strategy=strategy)
    assert report.idle == ("norm:ssf:scale", "norm:ssf:shift")
    assert report.cut == ()
    assert "depends on them (exclude them, or leave them): norm" in str(report)
    assert not brief(adapt(Unused(), SPEC, exclude=["norm"]), strategy=strategy).idle


@pytest.mark.gpu
def test_training_runs_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    robust = make_robust()
    report = brief(robust, precision="bf16", epochs=20, loss=nn.CrossEntropyLoss(torch.ones(CLASSES)), dropout=True,
                   val_loader=make_loader(), metric="accuracy")  # fmt: skip
    assert next(robust.parameters()).device.type == "cuda"
    assert report.history[-1].loss < report.history[0].loss


class Averaging(nn.Module):
    """Average tokens by a mask without a clamp: 0 / 0 where text is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.image, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Any:
        words = (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(words + self.image(image))


@pytest.mark.parametrize("strategy", ["joint", "separate"])
def test_nan_of_one_combination_names_it_and_the_fill(strategy: Any) -> None:
    robust = adapt(Averaging(), {"text": {"ids": "L 4", "mask": "L:int64"}, "image": "4"}, fill="literal-zeros")
    text = {"ids": torch.randn(8, 5, 4), "mask": torch.ones(8, 5, dtype=torch.int64)}
    batch = {"text": text, "image": torch.randn(8, 4)}, torch.randint(3, (8,))
    wanted = r"the loss is nan for rows with image\. The network gives NaN.*without any adapter.*text \(literal-zeros\)"
    with pytest.raises(NonFiniteLoss, match=wanted):
        train(robust, [batch], loss=cross_entropy, strategy=strategy, progress=False)
    cured = adapt(robust.detach(), robust.modalities, fill={"text": Constant({"ids": 0.0, "mask": 1})})  # as it says
    train(cured, [batch], loss=cross_entropy, strategy=strategy, epochs=1, progress=False)


def test_a_target_of_two_parts_keeps_both_where_two_rows_are_drawn() -> None:
    seen = []

    def loss(output: Tensor, target: Any) -> Tensor:
        seen.append([tuple(part.shape) for part in target])
        return cross_entropy(output, target[0])

    spec = {"text": {"ids": "L 4", "mask": "L"}, "image": "4"}
    robust = adapt(Averaging(), spec, combinations=["text"], fill="literal-zeros")
    inputs = {
        "text": {"ids": torch.randn(2, 5, 4), "mask": torch.ones(2, 5)},
        "image": torch.randn(2, 4),
        "present": torch.tensor([[True, True], [False, True]]),
    }
    train(
        robust, [(inputs, (torch.tensor([0, 1]), torch.zeros(2, 7)))], loss=loss, epochs=1, safe=False, progress=False
    )
    assert seen == [[(1,), (1, 7)]]
