"""What every check says where a promise is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsense.routing.groups import output_tensors


def equal(one: Any, other: Any) -> bool:
    """Say whether two values are the same, mappings entry by entry."""
    if isinstance(one, Mapping):
        return all(equal(value, other[name]) for name, value in one.items())
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def assert_equal(found: Any, expected: list[Tensor], promise: str) -> None:
    """Raise `AssertionError` where outputs differ in any bit."""
    pairs = zip(output_tensors(found), expected, strict=True)
    assert_that(all(torch.equal(one, other) for one, other in pairs), promise)


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float, promise: str) -> None:
    """Raise `AssertionError` where outputs differ by more than a tolerance of the greatest."""
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp(min=1e-12) if other.numel() else torch.ones(())
        difference = (
            float((one.detach().double() - other.detach().double()).abs().max() / scale.detach())
            if other.numel()
            else 0.0
        )
        assert_that(difference <= tolerance, f"{promise}: by {difference:.1e} of the greatest output")


def assert_that(holds: bool, promise: str) -> None:
    """Raise `AssertionError` naming the promise that is broken."""
    if not holds:
        raise AssertionError(promise)
