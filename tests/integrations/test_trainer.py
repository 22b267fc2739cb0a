"""transformers' Trainer: a whole run, its checkpoint, resuming, prediction; frozen is frozen."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from training_examples import Noisy, adapters, equal, make_network, make_robust

transformers = pytest.importorskip("transformers", reason="needs the extra subsense[transformers]")
pytestmark = pytest.mark.filterwarnings("ignore")


class Rows(Noisy):
    """The rows as Trainer wants them: one dict each."""

    def __getitem__(self, row: int) -> Any:
        inputs, target = super().__getitem__(row)
        return {**inputs, "labels": target}


def model(robust: ss.RobustModel, **options: Any) -> Any:
    from subsense.integrations.trainer import for_trainer

    return for_trainer(robust, cross_entropy, **options)


def loader() -> DataLoader[Any]:
    return DataLoader(Noisy(noise=0.0), batch_size=48)


def trainer(made: Any, folder: Path, epochs: float = 6, **options: Any) -> Any:
    from subsense.integrations.trainer import EachCombination

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=2e-2,
        report_to=[], disable_tqdm=True, use_cpu=True, seed=3, **options,
    )  # fmt: skip
    return transformers.Trainer(
        model=made, args=arguments, train_dataset=Rows(noise=0.0), eval_dataset=Rows(noise=0.0),
        callbacks=[EachCombination(made, loader(), "accuracy")],
    )  # fmt: skip


def test_a_run_trains_the_sets_and_leaves_the_network(tmp_path: Path) -> None:
    robust = make_robust(untrained="pretrained")
    before = {name: x.clone() for name, x in robust.network.state_dict().items()}
    start = ss.evaluate(robust, loader(), metric="accuracy", progress=False)
    run = trainer(model(robust), tmp_path, 10, eval_strategy="epoch", save_strategy="no")
    run.train()
    end = ss.evaluate(robust, loader(), metric="accuracy", progress=False)
    assert end.summary.adapted > start.summary.pretrained + 0.1
    assert equal(before, robust.network.state_dict())
    assert not any(layer.training for layer in robust.network.modules())
    last = run.evaluate()
    assert last["eval_accuracy"] == pytest.approx(end.summary.adapted)
    assert last["eval_accuracy/rgb"] == pytest.approx(end["rgb"].adapted)


def test_trainer_sees_the_arguments_by_name() -> None:
    made = model(make_robust())
    parameters = inspect.signature(made.forward).parameters
    assert list(parameters) == ["rgb", "depth", "imu", "present", "labels"]
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def test_accumulated_batches_weigh_as_one(tmp_path: Path) -> None:
    # With `**kwargs` in forward, Trainer would leave the division to the model: the same steps, twice the gradient.
    found = []
    for batch, accumulate in ((16, 1), (8, 2)):
        robust = make_robust()
        run = trainer(model(robust, combinations=["rgb"]), tmp_path / str(batch), 2, save_strategy="no",
                      gradient_accumulation_steps=accumulate, max_grad_norm=0.0, optim="sgd")  # fmt: skip
        run.args.per_device_train_batch_size = run._train_batch_size = batch
        run.train()
        found.append(adapters(robust))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_a_checkpoint_holds_the_adapters_alone_and_goes_on(tmp_path: Path) -> None:
    whole, resumed = make_robust(), make_robust()
    trainer(model(whole), tmp_path, 4, save_strategy="epoch").train()
    halfway = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[1]
    assert (halfway / "model.safetensors").stat().st_size < 20_000
    trainer(model(resumed), tmp_path / "rest", 4, save_strategy="no").train(resume_from_checkpoint=str(halfway))
    assert set(resumed.trained) == set(whole.trained)
    one, other = adapters(whole), adapters(resumed)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    kept = model(make_robust()).state_dict()
    network = make_network()
    with torch.no_grad():
        network.head.bias.add_(1.0)
    other = ss.adapt(network, {"rgb": "4", "depth": "6", "imu": "3"})
    with pytest.raises(ss.OtherNetwork, match="belong to a network with fingerprint"):
        model(other).load_state_dict(kept)


def test_a_checkpoint_of_another_method_is_refused_and_nothing_changes() -> None:
    kept, robust = model(make_robust()).state_dict(), make_robust(method="lora")
    before = adapters(robust)
    with pytest.raises(ss.CheckpointError, match="adapter state"):
        model(robust).load_state_dict(kept)
    assert equal(before, adapters(robust))
    assert robust.trained == ()


def test_sets_that_are_not_asked_for_stay(tmp_path: Path) -> None:
    robust = make_robust()
    before = adapters(robust)
    trainer(model(robust, combinations=["rgb"]), tmp_path, 2, weight_decay=0.5, save_strategy="no").train()
    row = robust.router.row_names.index("rgb")
    for name, bank in adapters(robust).items():
        kept = [other for other in range(len(bank)) if other != row]
        assert torch.equal(bank[kept], before[name][kept])


def test_prediction_answers_for_what_a_row_has(tmp_path: Path) -> None:
    robust = make_robust()
    robust.mark_trained(robust.combinations)
    data = [{"rgb": row["rgb"], "labels": row["labels"]} for row in Rows(noise=0.0)]
    found = trainer(model(robust), tmp_path, 1, save_strategy="no").predict(data).predictions
    with torch.no_grad():
        expected = robust.eval()({"rgb": torch.stack([row["rgb"] for row in data])})
    assert torch.allclose(torch.as_tensor(found), expected, atol=1e-6)


class Lacking(Rows):
    """Rows that lack arguments: the first one too."""

    def __getitem__(self, row: int) -> Any:
        columns = super().__getitem__(row)
        lacks = ("depth", "imu", None)[row % 3]
        return {name: value for name, value in columns.items() if name != lacks}


def test_rows_may_lack_arguments() -> None:
    made, data = model(make_robust()), Lacking(noise=0.0)
    rows = [data[row] for row in range(6)]
    batch = made.collate(rows)
    assert batch["present"].tolist() == [[True, False, True], [True, True, False], [True, True, True]] * 2
    for number, row in enumerate(rows):
        for name in ("rgb", "depth", "imu"):
            expected = row[name] if name in row else torch.zeros_like(rows[2][name])
            assert torch.equal(batch[name][number], expected)
        assert batch["labels"][number] == row["labels"]
    assert set(made.collate([{"rgb": rows[0]["rgb"]}, {"rgb": rows[1]["rgb"]}])) == {"rgb", "present"}
    with pytest.raises(ss.InputError, match=r"sample 1 has no modality present"):
        made.collate([rows[0], {"labels": 1}])


def test_parts_of_a_modality_are_collated_by_their_arguments() -> None:
    class Reads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.rgb = torch.nn.Embedding(9, 4), torch.nn.Linear(3, 4)

        def forward(self, input_ids: Any, attention_mask: Any, rgb: Any) -> Any:
            return (self.text(input_ids) * attention_mask[..., None]).sum(1) + self.rgb(rgb)

    spec = {"text": {"input_ids": "5:int64", "attention_mask": "5:int64"}, "rgb": "3"}
    made = model(ss.adapt(Reads(), spec, call={"text": ["input_ids", "attention_mask"]}))
    text = {"input_ids": [1, 2, 3, 4, 5], "attention_mask": [1, 1, 1, 0, 0]}
    batch = made.collate([{"rgb": [1.0, 2, 3], "labels": 0}, {**text, "labels": 1}])
    assert batch["present"].tolist() == [[False, True], [True, False]]
    assert batch["input_ids"].tolist() == [[0] * 5, [1, 2, 3, 4, 5]]
    assert made(**batch)["loss"].isfinite()


def test_a_run_over_rows_that_lack_arguments(tmp_path: Path) -> None:
    made = model(make_robust())
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=16, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    transformers.Trainer(
        model=made, args=arguments, train_dataset=Lacking(noise=0.0), data_collator=made.collate
    ).train()
    assert made.robust.trained
