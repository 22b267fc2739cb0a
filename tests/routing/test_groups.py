"""Groups of one row in networks that squeeze, and rows of NaN: the right rows, or words."""

import pytest
import torch
from torch import Tensor, nn

from networks import draw, with_sets
from subsense import InputError, adapt
from subsense.routing.groups import run_grouped
from subsense.routing.placement import Placement

SPEC = {"a": "2 N", "b": "2 N", "c": "2 N"}
TWO = torch.tensor([[True, False, True], [False, True, True]])
THREE = torch.tensor([[True, False, True], [False, True, True], [True, False, False]])


class Squeezing(nn.Module):
    """Pool to (batch, classes, 1) and squeeze every axis of one, as published heads do."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Conv1d(6, 4, 1), nn.Conv1d(4, classes, 1)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        pooled = self.inner(torch.cat([a, b, c], 1)).relu().mean(2, keepdim=True)
        return self.head(pooled).squeeze()


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("present", [TWO, THREE], ids=["two", "three"])
def test_groups_of_one_row_keep_their_shape_where_the_head_squeezes(
    classes: int, present: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subsense.model.rows.LARGE_GROUP", 1)  # as from a large volume on
    robust = with_sets(adapt(Squeezing(classes), SPEC))
    inputs = draw(SPEC, rows=len(present))
    together = robust(inputs, present)
    with torch.no_grad():
        grouped = robust(inputs, present)
    assert grouped.shape == together.shape
    torch.testing.assert_close(grouped, together)


class Several(Squeezing):
    """Give three outputs, as networks with heads for several tasks do."""

    def __init__(self) -> None:
        super().__init__(1)
        self.second, self.third = nn.Conv1d(4, 1, 1), nn.Conv1d(4, 3, 1)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        pooled = self.inner(torch.cat([a, b, c], 1)).relu().mean(2, keepdim=True)
        return tuple(head(pooled).squeeze() for head in (self.head, self.second, self.third))


def test_several_outputs_keep_their_shapes_where_heads_squeeze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subsense.model.rows.LARGE_GROUP", 1)
    robust = with_sets(adapt(Several(), SPEC))
    inputs = draw(SPEC, rows=2)
    together = robust(inputs, TWO)
    with torch.no_grad():
        grouped = robust(inputs, TWO)
    assert [one.shape for one in grouped] == [(2,), (2,), (2, 3)]
    torch.testing.assert_close(grouped, together)


def test_an_output_of_another_shape_in_one_group_is_refused_in_words() -> None:
    def run(filled: dict[str, tuple[Tensor, ...]], code: int) -> Tensor:
        return filled["a"][0] if code else filled["a"][0].flatten()

    with pytest.raises(InputError, match=r"shapes \(4,\), \(1, 2\) for groups of 2, 1 rows.*squeeze\(1\), not squeeze"):
        run_grouped(run, {"a": (torch.zeros(3, 2),)}, [0, 0, 1], [Placement(0, rank=2)])


class Attending(nn.Module):
    """(batch, L, 4) with its mask, (batch, 4) -> (batch, 3): the mean over tokens has no clamp, so it may be 0 / 0."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.image, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        words = (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(words + self.image(image))


TEXT = {"text": {"ids": "L 4", "mask": "L:int64"}, "image": "4"}


@pytest.mark.parametrize("first", [0, 3], ids=["rows of NaN first", "rows of NaN last"])
def test_rows_of_nan_go_to_those_rows_only(first: int) -> None:
    robust = with_sets(adapt(Attending(), TEXT, fill="literal-zeros"))
    text = {"ids": torch.randn(6, 5, 4), "mask": torch.ones(6, 5, dtype=torch.int64)}
    image, present = torch.randn(6, 4), torch.ones(6, 2, dtype=torch.bool)
    present[first : first + 3, 0] = False
    found = robust({"text": text, "image": image}, present)
    assert found.isnan().all(1).tolist() == (~present[:, 0]).tolist()
    kept = present[:, 0]
    expected = robust({"text": {name: value[kept] for name, value in text.items()}, "image": image[kept]})
    torch.testing.assert_close(found[kept], expected)


class Hopeless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.inner((a + b) * float("nan"))


def test_nan_whatever_goes_in_is_said() -> None:
    robust = with_sets(adapt(Hopeless(), {"a": "4", "b": "4"}))
    with pytest.raises(InputError, match=r"gives NaN for all of them.*one combination at a time"):
        robust({"a": torch.randn(2, 4), "b": torch.randn(2, 4)}, torch.tensor([[True, False], [False, True]]))
    assert robust({"a": torch.randn(2, 4)}).isnan().all()  # as the message says


def test_a_network_without_squeeze_gives_what_single_rows_give() -> None:
    robust = with_sets(adapt(Attending(), TEXT | {"text": {"ids": "L 4", "mask": "L"}}, fill="literal-zeros"))
    inputs = {"text": {"ids": torch.randn(3, 5, 4), "mask": torch.ones(3, 5)}, "image": torch.randn(3, 4)}
    present = torch.tensor([[True, True], [True, False], [True, True]])
    found = robust(inputs, present)
    alone = [
        robust({"text": {name: value[row : row + 1] for name, value in inputs["text"].items()},
                "image": inputs["image"][row : row + 1]}, present[row : row + 1])
        for row in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.cat(alone))
