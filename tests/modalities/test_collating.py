"""Samples that lack modalities become batches whose `present` says so."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

import subsense as ss
from subsense.testing import check_dataset

SPEC = {"rgb": "3", "thermal": "2"}


class Samples(Dataset[Any]):
    """Twelve samples: every third has no thermal key, every fourth None for rgb."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.rgb, self.thermal = torch.randn(12, 3, generator=draw), torch.randn(12, 2, generator=draw)
        self.epoch = -1

    def __len__(self) -> int:
        return 12

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        inputs = {"rgb": self.rgb[index], "thermal": self.thermal[index]}
        if index % 3 == 0:
            del inputs["thermal"]
        elif index % 4 == 1:
            return inputs | {"rgb": None}, index % 2
        return inputs, index % 2


EXPECTED = torch.tensor([[index % 3 == 0 or index % 4 != 1, index % 3 != 0] for index in range(12)])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.thermal = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, rgb: torch.Tensor, thermal: torch.Tensor) -> Any:
        return self.rgb(rgb) + self.thermal(thermal)


def loaders() -> dict[str, Any]:
    samples = Samples()
    return {
        "collate": DataLoader(samples, 4, collate_fn=ss.Collate(SPEC)),
        "wrapper": DataLoader(ss.Incomplete(samples, SPEC), 4),
        "both": DataLoader(ss.Incomplete(samples, SPEC), 4, collate_fn=ss.Collate(ss.Modalities(SPEC))),
    }


def test_torch_alone_cannot() -> None:
    with pytest.raises((KeyError, TypeError)):
        default_collate(list(Samples())[:4])


@pytest.mark.parametrize("way", ["collate", "wrapper", "both"])
def test_a_batch_says_which_row_has_what(way: str) -> None:
    batches, samples = list(loaders()[way]), Samples()
    present = torch.cat([inputs["present"] for inputs, _ in batches])
    assert torch.equal(present, EXPECTED)
    assert torch.equal(torch.cat([target for _, target in batches]), torch.arange(12) % 2)
    for column, (name, whole) in enumerate({"rgb": samples.rgb, "thermal": samples.thermal}.items()):
        found = torch.cat([inputs[name] for inputs, _ in batches])
        assert torch.equal(found, whole * EXPECTED[:, column, None])


@pytest.mark.parametrize("way", ["collate", "wrapper"])
def test_the_library_trains_on_incomplete_data_and_measures_them(way: str) -> None:
    torch.manual_seed(0)
    robust = ss.adapt(Network(), SPEC, sharing="additive")
    loader = loaders()[way]
    report = ss.train(robust, loader, loss=nn.functional.cross_entropy, epochs=2, progress=False)
    assert report is not None
    table = ss.evaluate(robust, loader, metric="accuracy", progress=False)
    counts = {str(row.combination): row.count for row in table.rows}
    assert counts == {"rgb": 10, "thermal": 8, "rgb+thermal": 6}


def test_what_no_row_has_is_left_out_and_samples_may_be_inputs_alone() -> None:
    batch = ss.Collate(SPEC)([{"rgb": np.ones(3, np.float32)}, {"rgb": torch.zeros(3), "thermal": None}])
    assert set(batch) == {"rgb", "present"}
    assert batch["rgb"].dtype == torch.float32
    assert batch["present"].tolist() == [[True, False]] * 2


def test_a_modality_of_several_tensors_and_a_present_of_ones_own() -> None:
    spec: Any = {"text": {"ids": "L:int64", "mask": "L:int64"}, "image": "3 H"}
    tokens = {"ids": torch.arange(4), "mask": torch.ones(4, dtype=torch.int64)}
    samples = [
        ({"text": tokens, "image": torch.ones(3, 2), "present": torch.tensor([True, False])}, 1),
        ({"image": torch.ones(3, 2)}, 0),
    ]
    inputs, _ = ss.Collate(spec)(samples)
    assert inputs["present"].tolist() == [[True, False], [False, True]]
    assert inputs["text"]["ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert inputs["image"][:, 0, 0].tolist() == [0, 1]
    data = ss.Incomplete(samples, {"text": {"ids": "4:int64", "mask": "4:int64"}, "image": "3 H"})
    assert data[1][0]["text"]["mask"].tolist() == [0] * 4
    assert data[1][0]["text"]["mask"].dtype == torch.int64
    check_dataset(data, data.modalities.spec)


def test_the_wrapper_hands_on_the_epoch() -> None:
    samples = Samples()
    ss.Incomplete(samples, SPEC).set_epoch(3)
    assert samples.epoch == 3
    ss.Incomplete([({"rgb": torch.ones(3)}, 0)], SPEC).set_epoch(3)


@pytest.mark.slow
def test_workers_of_their_own_make_the_same_batches() -> None:
    here = list(loaders()["collate"])
    there = list(DataLoader(Samples(), 4, collate_fn=ss.Collate(SPEC), num_workers=2, multiprocessing_context="spawn"))
    assert all(torch.equal(one["present"], other["present"]) for (one, _), (other, _) in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([3], r"sample 0: expected \(\{modality: tensor\}, target\), or the inputs alone, but found int"),
        ([({"rgb": torch.ones(3)}, 0), ({"rbg": torch.ones(3)}, 0)], r"sample 1: unknown modality 'rbg'.*mean 'rgb'"),
        ([({"rgb": None}, 0)], "sample 0 has no modality present; each needs at least one"),
        ([({"rgb": torch.ones(3)}, 0), ({"rgb": torch.ones(4)}, 0)], r"'rgb': expected one shape .*\(3,\).*\(4,\)"),
        ([({"rgb": torch.ones(3), "present": torch.ones(2)}, 0)], r"sample 0, 'present': expected bool \(2,\)"),
        (
            [({"rgb": {"a": torch.ones(3)}},), ({"rgb": torch.ones(3)},)],
            r"expected \['a'\] in each .* found Tensor",
        ),
        ([({"rgb": torch.ones(3)}, 0), ({"rgb": torch.ones(3)},)], "sample 1: expected a target, as sample 0 has"),
    ],
)
def test_samples_that_fit_no_batch_are_named(samples: Any, message: str) -> None:
    with pytest.raises(ss.InputError, match=message):
        ss.Collate(SPEC)(samples)


def test_a_size_that_only_the_absent_modality_has_is_refused() -> None:
    with pytest.raises(ss.InputError, match=r"'thermal' is missing and axis 'H'.*Declare a number"):
        ss.Incomplete([({"rgb": torch.ones(3)}, 0)], {"rgb": "3", "thermal": "1 H"})[0]


def boxes(number: int) -> dict[str, torch.Tensor]:
    return {"boxes": torch.full((number, 5), float(number))}


def detections() -> list[Any]:
    counts = (2, 0, 3, 2)
    inputs = [{"rgb": torch.full((3,), 1.0)} | ({"depth": torch.ones(2)} if row % 2 else {}) for row in range(4)]
    return [(one, boxes(count)) for one, count in zip(inputs, counts, strict=True)]


def test_targets_of_several_sizes_are_named_when_stacked_and_stay_a_list_as_advised() -> None:
    with pytest.raises(ss.InputError, match=r"targets of a batch can't be stacked: .*targets='list'"):
        ss.Collate(["rgb", "depth"])(detections())
    _, target = ss.Collate(["rgb", "depth"], targets="list")(detections())
    assert [len(one["boxes"]) for one in target] == [2, 0, 3, 2]


@pytest.mark.parametrize("target", [torch.ones(2, 5), [1, 2]])
def test_what_could_be_rows_or_parts_is_to_be_named(target: Any) -> None:
    with pytest.raises(ss.InputError, match=r"sample 0: expected a mapping or a number .* name it: \{'boxes'"):
        ss.Collate(["rgb"], targets="list")([({"rgb": torch.ones(3)}, target)])


def test_another_word_for_targets() -> None:
    with pytest.raises(ss.InputError, match="targets: expected 'stack' or 'list', but found 'lists'"):
        ss.Collate(["rgb"], targets="lists")


def test_a_loss_gets_the_boxes_of_the_rows_that_were_drawn() -> None:
    """As many boxes in a row as there are rows, too; and YOLO's one tensor, made in the loss as the page says."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rgb, self.depth = nn.Linear(3, 5), nn.Linear(2, 5)

        def forward(self, rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
            return self.rgb(rgb) + self.depth(depth)

    seen: list[list[int]] = []

    def loss(output: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        assert len(output) == len(targets)
        seen.append([len(one["boxes"]) for one in targets])
        rows = [nn.functional.pad(one["boxes"], (1, 0), value=row) for row, one in enumerate(targets)]
        indexed = torch.cat(rows)
        return (output[indexed[:, 0].long()] - indexed[:, 1:]).square().mean()

    robust = ss.adapt(Detector(), {"rgb": "3", "depth": "2"})
    batch = ss.Collate(robust.modalities, targets="list")(detections())
    ss.train(robust, [batch], loss=loss, combinations=["depth"], epochs=1, progress=False, safe=False)
    assert seen == [[0, 2]]  # rows 1 and 3 have depth
