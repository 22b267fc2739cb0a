"""The optimiser of the loop is AdamW, whichever of torch's kernels runs it."""

from typing import Any

import pytest
import torch
from torch import nn

from subsense.training.step import make_adamw

SHAPES = [(15, 7), (3, 4, 5), (1,)]


def moved(dtype: torch.dtype, make: Any, steps: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]
    optimizer = make(parameters)
    for _ in range(steps):
        for parameter in parameters[:-1]:  # the last one never has a gradient
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
def test_it_moves_as_one_operation_after_the_other_does(dtype: torch.dtype, tolerance: float) -> None:
    found = moved(dtype, lambda parameters: make_adamw(parameters, lr=0.05, weight_decay=0.1))
    expected = moved(dtype, lambda parameters: torch.optim.AdamW(parameters, 0.05, weight_decay=0.1, foreach=False))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("parameters", "fused"),
    [
        ([torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.bfloat16)], True),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.complex64)], None),
        ([torch.zeros(2), torch.zeros(2, device="meta")], None),
    ],
    ids=["floating point", "complex", "another device"],
)
def test_one_kernel_where_torch_has_one(parameters: list[torch.Tensor], fused: bool | None) -> None:
    optimizer = make_adamw([nn.Parameter(one) for one in parameters], lr=0.1, weight_decay=0.0)
    assert optimizer.defaults["fused"] is fused
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(one.device.type == "meta" or bool(one.real.lt(0).all()) for one in parameters)
