"""All banks at once give what each of them gives alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from subsense.routing.choice import Choice

WEIGHTS = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
INDEX = torch.tensor([1, 0, 2, 1])
CHOICES = {
    "additive": Choice(WEIGHTS),
    "independent": Choice(WEIGHTS, INDEX),
    "independent, some rows use none": Choice(WEIGHTS, INDEX, torch.tensor([True, False, True, True])),
    "all rows alike": Choice(WEIGHTS[:1], INDEX[:1], row=1),
    "all rows alike, additive": Choice(WEIGHTS[2:3]),
}


@pytest.fixture
def banks() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (3, 2, 4), (3, 1)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def reference(choice: Choice, bank: Tensor) -> Tensor:
    if choice.index is None:
        return torch.einsum("br,r...->b...", choice.weights.double(), bank)
    rows = bank[choice.index]
    return rows if choice.used is None else rows * choice.used.view(-1, *[1] * (rows.dim() - 1))


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_all_at_once_is_one_by_one(choice: Choice, banks: list[Tensor]) -> None:
    picked = choice.of_all(banks)
    expected = [reference(choice, bank) for bank in banks]
    grads = [torch.randn_like(one) for one in expected]
    for one, bank, other in zip(picked, banks, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(one, choice.of(bank))
        assert torch.equal(choice.vector(bank), one[0])
    found = torch.autograd.grad(picked, banks, grads)
    for one, other in zip(found, torch.autograd.grad(expected, banks, grads), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_gradients_have_gradients(choice: Choice, banks: list[Tensor]) -> None:
    def run(*banks: Tensor) -> Any:
        return tuple(one.square() for one in choice.of_all(banks))

    assert torch.autograd.gradcheck(run, banks)
    assert torch.autograd.gradgradcheck(run, banks)


def test_a_bank_that_nothing_used_has_no_gradient(banks: list[Tensor]) -> None:
    picked = CHOICES["independent"].of_all(banks)
    picked[1].sum().backward()
    assert [bank.grad is None for bank in banks] == [True, False, True]


def test_what_is_not_finite_stays_in_its_own_row(banks: list[Tensor]) -> None:
    picked = CHOICES["independent, some rows use none"].of_all(banks)
    grad = torch.zeros_like(picked[0])
    grad[:2] = torch.inf
    picked[0].backward(grad)
    assert banks[0].grad is not None
    assert banks[0].grad.isfinite().all(1).tolist() == [True, False, True]


def test_no_choice_is_rounded_by_autocast(banks: list[Tensor]) -> None:
    single = [bank.float() for bank in banks]
    with torch.autocast("cpu", torch.bfloat16):
        picked = CHOICES["additive"].of_all(single)
    for one, bank in zip(picked, single, strict=True):
        torch.testing.assert_close(one, reference(CHOICES["additive"], bank.double()).float())
