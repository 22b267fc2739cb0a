"""Write a network with all its adapter sets as one file: ONNX with a small file for each set, or `torch.export`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from subsense.deployment.export import TRACED_ROWS, compare, first_of, take_rows, tensors_of, trace_inputs
from subsense.deployment.onnx_sets import OTHER_ROWS, OnnxSets
from subsense.errors import FoldError
from subsense.modalities import Combination
from subsense.modalities.inputs import Inputs, check_finite, read
from subsense.model.robust import RobustModel
from subsense.support.modules import evaluating

ENDINGS = (".onnx", ".pt2")


def export(
    robust: RobustModel, path: str | Path, example: Inputs, *, free_batch: bool = True
) -> dict[Combination, Path]:
    """Write a network with all its adapter sets as one file, and check every combination against the model.

    ``.onnx``: one graph, which by itself computes what the network computes with everything present. The adapters'
    parameters are overridable inputs; a file ``NAME.COMBINATION.onnx_adapter`` for each combination holds the values
    that make it that combination's, for onnxruntime's `LoraAdapter`. All rows of one run lack the same. Inputs are
    called as modalities are, or by argument where several carry one; any numbers may be passed for what is missing.
    The graph's metadata say, under ``subsense``, which file serves which combination.

    ``.pt2``: one program of `torch.export`, called as the model is: ``program(inputs, present)``, bool `present`
    (batch, modality), rows that lack different modalities together. All modalities have to be passed.

    Args:
        robust: the adapted network; it stays as it is.
        path: the file to write, ``.onnx`` or ``.pt2``.
        example: inputs (batch, ...), every modality present.
        free_batch: whether the file takes any number of rows; otherwise as many as the example has.

    Returns:
        Each combination that the file serves -> where its set is: an adapter file, or the program itself.

    Raises:
        FoldError: another ending; a modality that is left out (fill ``"omit"``), or missing from the example; nothing
            is trained; the network can't be exported; what was written gives other numbers.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> robust.mark_trained("all")  # by `train`, were this more than an example
    >>> x = {"left": torch.ones(2, 4), "right": torch.ones(2, 6)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = ss.export(robust, f"{folder}/robust.pt2", x)
    ...     program = torch.export.load(f"{folder}/robust.pt2").module()
    >>> list(map(str, files)), program(x, torch.tensor([[True, False], [True, True]])).shape
    (['left', 'right'], torch.Size([2, 3]))
    """
    path, served = Path(path), _check(robust, Path(path), example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with evaluating(robust), torch.no_grad():
        if path.suffix == ".pt2":
            _write_program(robust, path, example, free_batch)
            return dict.fromkeys(served, path)
        return OnnxSets(robust, path, example, free_batch).write(served)


def _check(robust: RobustModel, path: Path, example: Inputs) -> dict[Combination, int]:
    """Give each combination that can be served -> the one whose set serves it, as bit masks; raise `FoldError`."""
    if path.suffix not in ENDINGS:
        raise FoldError(f"export: expected a file that ends in {' or '.join(ENDINGS)}, but found {path.name!r}")
    if robust.call.omits:
        raise FoldError(
            f"export: nothing stands in for {', '.join(sorted(robust.call.omits))} (fill 'omit'), so the network runs "
            "in another way for each combination; write one file for each: subsense.fold(..., onnx=...)"
        )
    if absent := [name for name in robust.modalities if example.get(name) is None]:
        raise FoldError(f"export: expected an example with every modality, but it lacks {', '.join(absent)}")
    robust.injection.check_in_place()
    robust.trained_on.check()
    check_finite(robust.modalities, read(robust.modalities, example), robust.fill.masks)
    codes, table = robust.modalities.code, robust.router.table(training=False)
    incomplete = robust.modalities.incomplete()
    served = {one: table[codes(one)] for one in incomplete if table[codes(one)] >= 0}
    if not served:
        raise FoldError(f"export: {robust.router.refusal(codes(incomplete[0]))}")
    return served


def _write_program(robust: RobustModel, path: Path, example: Inputs, free_batch: bool) -> None:
    example = {name: example[name] for name in robust.modalities}
    robust.locate(example)
    rows = TRACED_ROWS if free_batch else len(first_of(example))
    present = robust.modalities.present(robust.modalities.complete).expand(rows, -1).to(first_of(example).device)
    args = (take_rows(example, rows), present.contiguous())
    program = trace_inputs(robust, args, [0, 1] if free_batch else [])
    program.example_inputs = None  # they would be in the file, pickled
    torch.export.save(program, path)
    again = torch.export.load(path).module()
    for count in (OTHER_ROWS, rows) if free_batch else (rows,):
        inputs = take_rows(example, count)
        for present in _presences(robust, count):
            compare(path, tensors_of(robust(inputs, present)), tensors_of(again(inputs, present.to(args[1].device))))


def _presences(robust: RobustModel, rows: int) -> list[Tensor]:
    """Give `present` for rows that are alike, of every combination that is served, and for rows that differ."""
    modalities = robust.modalities
    table = robust.router.table(training=False)
    masks = [modalities.present(one) for one in modalities.combinations() if table[modalities.code(one)] >= 0]
    mixed = torch.stack([masks[row % len(masks)] for row in range(rows)])
    return [*(mask.expand(rows, -1) for mask in masks), mixed]
