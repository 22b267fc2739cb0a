"""Write a folded network as ONNX or with `torch.export`, and check what was written against eager."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from subsense.deployment.torch_private import noting_guards
from subsense.errors import FoldError
from subsense.support.torch_private import tree_flatten, tree_map

NOTHING: Mapping[str, str] = {}
TOLERANCE = 1e-4  # of the greatest output; exported kernels sum in another order
CLOSE = 1e-5  # the same kernels on other numbers of rows
TRACED_ROWS = 13  # a free batch size is traced with one that networks have no other use for
CHECKED_ROWS = (1, 2, 5)


class Different(FoldError):
    """Report other numbers than those of what was folded or exported."""


Result = TypeVar("Result")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def trace(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free_batch: bool = False
) -> ExportedProgram:
    """Export a module; with `free_batch` for any number of rows, the first axis of every tensor that it is given.

    Raises:
        FoldError: it can't be exported.
    """
    if not free_batch:
        return attempt("torch.export", lambda: torch.export.export(module, args, kwargs))
    args, kwargs = take_rows((args, kwargs), TRACED_ROWS)
    rows = {0: Dim("batch", min=1)}
    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    free = {name: tree_map(lambda _: rows, argument) for name, argument in arguments.items()}
    what = "torch.export with a free batch size"
    return attempt(what, lambda: torch.export.export(module, args, kwargs, dynamic_shapes=free))


def trace_inputs(module: nn.Module, args: tuple[Any, Any], free: list[int]) -> ExportedProgram:
    """Export a module; the first axis of every tensor in those arguments is free."""
    rows = {0: Dim("batch", min=1)}
    shapes = tuple(
        tree_map(lambda _, size=rows if number in free else None: size, one) for number, one in enumerate(args)
    )
    what = "torch.export with a free batch size (free_batch=False takes the example's)" if free else "torch.export"
    return attempt(what, lambda: torch.export.export(module, args, dynamic_shapes=shapes))


def first_of(value: Any) -> Tensor:
    """Give the first tensor in a structure."""
    return tensors_of(value)[0]


def take_rows(value: Any, num_rows: int) -> Any:
    """Give so many rows of every tensor, the same ones over and over where there are fewer."""
    return tree_map(lambda tensor: tensor[torch.arange(num_rows, device=tensor.device) % len(tensor)], value)


def write_export(
    folded: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    free_batch: bool = False,
    notes: Mapping[str, str] = NOTHING,
) -> None:
    """Write a network with `torch.export`, read it back, and compare; the file also holds notes, name -> text.

    Raises:
        FoldError: it can't be exported, or gives other numbers.
    """
    program = trace(folded, args, kwargs, free_batch)
    program.example_inputs = None  # they would be in the file, pickled
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, path, extra_files=dict(notes))
    again = torch.export.load(path).module()
    for some_args, some_kwargs in _batches(args, kwargs, free_batch):
        with torch.no_grad():
            compare(path, tensors_of(folded(*some_args, **some_kwargs)), tensors_of(again(*some_args, **some_kwargs)))


def write_onnx(
    folded: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    free_batch: bool = False,
    notes: Mapping[str, str] = NOTHING,
) -> None:
    """Write a network as ONNX, run it with onnxruntime, and compare; notes are among its metadata.

    Raises:
        FoldError: the extra ``subsense[onnx]`` is not installed, it can't be exported, or gives other numbers.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise FoldError("writing ONNX needs more packages: pip install 'subsense[onnx]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    model = trace(folded, args, kwargs, free_batch) if free_batch else folded
    attempt(
        "ONNX export",
        lambda: torch.onnx.export(model, args, str(path), kwargs=kwargs, dynamo=True, verbose=False),
    )
    if notes:
        _write_notes(path, notes)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    for some_args, some_kwargs in _batches(args, kwargs, free_batch):
        given = [tensor.cpu().numpy() for tensor in tensors_of((some_args, some_kwargs))]
        found = session.run(None, dict(zip(names, given, strict=True)))
        with torch.no_grad():
            expected = tensors_of(folded(*some_args, **some_kwargs))
        compare(path, expected, [torch.from_numpy(one) for one in found])


def _write_notes(path: Path, notes: Mapping[str, str]) -> None:
    """Add notes to the metadata of an ONNX file; weights that lie beside it stay there."""
    import onnx

    written = onnx.load(str(path), load_external_data=False)
    for name, text in notes.items():
        written.metadata_props.add(key=name, value=text)
    onnx.save(written, str(path))


def _batches(args: tuple[Any, ...], kwargs: dict[str, Any], free_batch: bool) -> list[Arguments]:
    return [take_rows((args, kwargs), rows) for rows in CHECKED_ROWS] if free_batch else [(args, kwargs)]


def attempt(what: str, export: Callable[[], Result]) -> Result:
    """Give what an export gives; raise `FoldError`, which names the network's line that stopped it, where it fails."""
    try:
        with torch.no_grad():
            return export()
    except Exception as error:
        place = _own_line(traceback.extract_tb(error.__traceback__)) or _binding_line(export, error)
        stopped = f", stopped by {place.line!r} ({Path(place.filename).name}, line {place.lineno})" if place else ""
        raise FoldError(f"{what} can't take this network{stopped}: {type(error).__name__}: {error}") from error


def _own_line(frames: Iterable[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """Give the innermost line that is the network's own; None where none is."""
    others = tuple(str(Path(str(package.__file__)).parent) for package in (torch, logging, sys.modules["subsense"]))
    own = [one for one in frames if not one.filename.startswith((*others, "<")) and Path(one.filename).exists()]
    return own[-1] if own else None


def _binding_line(export: Callable[[], Any], error: Exception) -> traceback.FrameSummary | None:
    """Export once more, and give the line that bound the number of rows, where that is what the error is about."""
    if "Constraints violated" not in str(error):
        return None
    lines: list[traceback.FrameSummary | None] = []
    with noting_guards(lambda: lines.append(_own_line(traceback.extract_stack()[:-1]))), torch.no_grad():
        try:
            export()
        except Exception:
            return next((line for line in reversed(lines) if line), None)
    return None


def tensors_of(value: Any) -> list[Tensor]:
    """Give the tensors in a structure, in its order."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def compare(
    what: str | Path, expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float | None = None
) -> None:
    """Raise `Different` where outputs differ by more than a tolerance, `TOLERANCE` if None, of the greatest."""
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            raise FoldError(f"{what}: gives {tuple(other.shape)} where {tuple(one.shape)} was expected")
        allowed = tolerance_of(one.dtype, TOLERANCE if tolerance is None else tolerance)
        difference = _difference(one.cpu(), other.cpu())
        if not difference <= allowed:
            raise Different(
                f"{what}: differs from what it was made of by {difference:.1e} of the greatest output, more than "
                f"{allowed:.0e}; it is not to be used"
            )


def tolerance_of(dtype: torch.dtype, full: float) -> float:
    """Give how far numbers computed in another order may be off: `full`, or four steps of half precision."""
    return 4 * torch.finfo(dtype).eps if dtype in (torch.float16, torch.bfloat16) else full


def _difference(one: Tensor, other: Tensor) -> float:
    """Give the greatest difference, relative to the greatest finite number; NaN where only one is infinite or NaN."""
    if not one.is_floating_point() and not one.is_complex():
        one, other = one.double(), other.double()
    sizes = one.abs()
    scale = sizes[sizes.isfinite()].max().clamp(min=1e-12) if sizes.isfinite().any() else sizes.new_ones(())
    return float((one - other).abs().masked_fill(one == other, 0).max() / scale) if one.numel() else 0.0
