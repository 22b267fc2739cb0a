"""Rows that lack different things, answered in as few passes as their shapes allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from subsense.errors import SubsenseError
from subsense.integrations.serving.requests import Row, write_row
from subsense.model.robust import RobustModel


def answer_rows(robust: RobustModel, rows: Sequence[Row], device: torch.device) -> list[dict[str, Any]]:
    """Answer rows: ``{"present": combination, "output": numbers}``, or ``{"error": why}`` for one that is refused."""
    answers: list[dict[str, Any]] = [{}] * len(rows)
    for numbers in _alike(rows):
        for number, answer in zip(numbers, _answer(robust, [rows[one] for one in numbers], device), strict=True):
            answers[number] = answer
    return answers


def _answer(robust: RobustModel, rows: Sequence[Row], device: torch.device) -> list[dict[str, Any]]:
    names = [str(robust.modalities.combination(list(row))) for row in rows]
    try:
        with torch.inference_mode():
            output = robust(*_stack(robust, rows, device))
    except SubsenseError as error:
        if len(rows) == 1:
            return [{"error": str(error)}]
        return [_answer(robust, [row], device)[0] for row in rows]
    return [{"present": name, "output": write_row(output, row)} for row, name in enumerate(names)]


def _alike(rows: Sequence[Row]) -> list[list[int]]:
    """Give the numbers of rows that fit into one batch: a modality has one shape wherever it is present."""
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for number, row in enumerate(rows):
        shapes = {name: _shapes(value) for name, value in row.items()}
        for known, numbers in groups:
            if all(known.get(name, shape) == shape for name, shape in shapes.items()):
                known.update(shapes)
                numbers.append(number)
                break
        else:
            groups.append((shapes, [number]))
    return [numbers for _, numbers in groups]


def _shapes(value: Any) -> Any:
    return {part: x.shape for part, x in value.items()} if isinstance(value, dict) else value.shape


def _stack(robust: RobustModel, rows: Sequence[Row], device: torch.device) -> tuple[dict[str, Any], Tensor]:
    present = torch.tensor([[name in row for name in robust.modalities] for row in rows])
    stacked: dict[str, Any] = {}
    for name in robust.modalities:
        examples = [row[name] for row in rows if name in row]
        if not examples:
            continue
        values = [row.get(name, examples[0]) for row in rows]  # what is missing is never read
        if isinstance(examples[0], dict):
            stacked[name] = {part: torch.cat([one[part] for one in values]).to(device) for part in examples[0]}
        else:
            stacked[name] = torch.cat(values).to(device)
    return stacked, present
