"""Write a folded network as ONNX or with `torch.export`, and check what was written against eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from subsense.errors import FoldError

TOLERANCE = 1e-4  # of the greatest output; exported kernels sum in another order


def write_export(folded: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write a network with `torch.export`, read it back, and compare.

    Raises:
        FoldError: it can't be exported, or gives other numbers.
    """
    program = _attempt("torch.export", lambda: torch.export.export(folded.eval(), args, kwargs))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, path)
    again = torch.export.load(path).module()
    with torch.no_grad():
        compare(path, _tensors(folded(*args, **kwargs)), _tensors(again(*args, **kwargs)))


def write_onnx(folded: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write a network as ONNX, run it with onnxruntime, and compare.

    Raises:
        FoldError: the extra ``subsense[onnx]`` is not installed, it can't be exported, or gives other numbers.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise FoldError("writing ONNX needs more packages: pip install 'subsense[onnx]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    _attempt(
        "ONNX export",
        lambda: torch.onnx.export(folded.eval(), args, str(path), kwargs=kwargs, dynamo=True, verbose=False),
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = [tensor.cpu().numpy() for tensor in _tensors((args, kwargs))]
    feed = dict(zip((one.name for one in session.get_inputs()), given, strict=True))
    with torch.no_grad():
        compare(path, _tensors(folded(*args, **kwargs)), [torch.from_numpy(one) for one in session.run(None, feed)])


def _attempt(what: str, export: Callable[[], Any]) -> Any:
    try:
        return export()
    except Exception as error:
        raise FoldError(f"{what} can't take this network: {type(error).__name__}: {error}") from error


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def compare(what: str | Path, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Raise `FoldError` where outputs differ by more than `TOLERANCE` of the greatest."""
    for one, other in zip(expected, found, strict=True):
        scale = one.abs().max().clamp(min=1e-12)
        difference = float((one.cpu() - other.cpu()).abs().max() / scale.cpu())
        if not difference <= TOLERANCE:
            raise FoldError(
                f"{what}: differs from what it was made of by {difference:.1e} of the greatest output, more than "
                f"{TOLERANCE:.0e}; it is not to be used"
            )
