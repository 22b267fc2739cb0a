"""Run one layer on absent input, alone and inside an adapted network, and write down what it gives and what is done."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subsense as ss
from subsense.routing.groups import output_tensors

KINDS = ("zero", "constant", "masked-out", "empty")
RIGHT, NONE = "✓", "–"
ROWS = 8
OFF = 1e-3
"""Of what the layer gives for noise; from there on numbers of other batches or of float64 count as others."""
STEEP = 1e3
"""By how much a layer enlarges a gradient; a LayerNorm over zeros does by 1 / sqrt(1e-5) = 316."""


@dataclass(frozen=True)
class Case:
    """Hold one layer: how it is made and called, and on what.

    Attributes:
        make: gives it, drawn.
        shape: of its input, without the batch: (time, features), (channels, *space) or (features,).
        run: (layer, x, mask) -> tensor; mask is (batch, time), 1 where a token is read; None where there is none.
        masked: whether it takes a mask.
        axis: where features are, for a projection without bias before it; None: nothing before it.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    run: Callable[[nn.Module, Tensor, Tensor | None], Any] = lambda layer, x, mask: layer(x)
    masked: bool = False
    axis: int | None = None

    @property
    def feature_axis(self) -> int:
        """Give the axis of features in a batch."""
        return self.axis if self.axis is not None else (-1 if len(self.shape) < 3 else 1)


@dataclass(frozen=True)
class Found:
    """Hold what was found for one kind of input: of the layer, and what subsense does; empty where nothing is odd."""

    layer: str
    done: str = ""

    def __str__(self) -> str:
        return f"{self.layer}; {self.done}" if self.done else self.layer

    @property
    def is_silent(self) -> bool:
        """Say whether something is odd about which nothing is done, or what is done goes wrong."""
        return (self.layer not in (RIGHT, NONE) and not self.done) or "**" in self.done


class Behind(nn.Module):
    """Fuse what a layer makes of one input, behind a projection without bias, with another input."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        channels = case.shape[case.feature_axis - 1 if case.feature_axis > 0 else -1]
        if case.feature_axis == 1 and len(case.shape) > 1:
            self.project: nn.Module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(case.shape) - 2](
                channels, channels, 1, bias=False
            )
        else:
            self.project = nn.Linear(channels, channels, bias=False)
        self.layer, self.rgb, self.head = case.make(), nn.Linear(3, 8), nn.LazyLinear(4)

    def forward(self, rgb: Tensor, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found = first(self.case.run(self.layer, self.project(x), attention_mask))
        pooled = found.reshape(len(x), -1)
        return self.head(torch.cat([self.rgb(rgb), pooled], 1))


def first(output: Any) -> Tensor:
    """Give the first tensor of an output."""
    return output_tensors(output)[0]


def survey(case: Case) -> dict[str, Found]:
    """Give what is found for each kind of absent input."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        return {kind: _survey(case, kind) for kind in KINDS}


def _survey(case: Case, kind: str) -> Found:
    if kind == "masked-out" and not case.masked:
        return Found(NONE)
    if kind == "empty" and len(case.shape) < 2:
        return Found(NONE)
    torch.manual_seed(0)
    layer = case.make().eval()
    alone = ", ".join(_alone(case, layer, kind)) or RIGHT
    torch.manual_seed(0)
    done = _done(case, kind)
    return Found(alone, done or ("right behind a projection" if alone != RIGHT else ""))


def given(case: Case, kind: str, rows: int) -> tuple[Tensor, Tensor | None]:
    """Give a batch of absent input, and its mask."""
    shape = list(case.shape)
    if kind == "empty":
        shape = [0 if place != (case.feature_axis - 1) % len(shape) else size for place, size in enumerate(shape)]
        if case.feature_axis == -1:
            shape = [0, case.shape[-1]]
    x = torch.full((rows, *shape), {"zero": 0.0, "constant": 0.5}.get(kind, 0.25))
    if kind == "masked-out":
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(4)).expand_as(x).contiguous()
    length = x.shape[1]
    if not case.masked:
        return x, None
    return x, torch.full((rows, length), 0 if kind == "masked-out" else 1)


def _alone(case: Case, layer: nn.Module, kind: str) -> list[str]:
    """Say what the layer gives and how steep it is, and whether other batches and float64 give the same."""
    x, mask = given(case, kind, ROWS)
    noise = torch.randn(ROWS, *case.shape, generator=torch.Generator().manual_seed(1))
    scale = float(_run(case, layer, noise, torch.ones(ROWS, len(noise[0]), dtype=torch.int64))[0].abs().max()) or 1.0
    try:
        output, gradient = _run(case, layer, x, mask)
        if not bool(output.isfinite().all()):
            return [_extreme(output)]
        found = (
            ["gradient NaN" if not isfinite(gradient) else f"gradient {gradient:.0e}"] if not gradient < STEEP else []
        )
        return found + ([] if kind == "empty" else _others(case, layer, output, (x, mask), scale))
    except (RuntimeError, IndexError, ValueError) as error:
        return [f"raises `{type(error).__name__}`"]


def _others(
    case: Case, layer: nn.Module, output: Tensor, given: tuple[Tensor, Tensor | None], scale: float
) -> list[str]:
    """Compare with a batch of one, with float64, and where all is masked with other tokens."""
    x, mask = given
    with torch.no_grad():
        single = first(case.run(layer, x[:1], None if mask is None else mask[:1]))
        others = {"other in a batch of one": single}
        with suppress(RuntimeError):  # of one precision
            others["other in float64"] = first(case.run(copy.deepcopy(layer).double(), x.double(), mask))
        if mask is not None and not mask.any():
            others["reads what is masked"] = first(case.run(layer, x.flip(-1), mask))
    found = []
    for what, other in others.items():
        if other.shape[1:] != output.shape[1:]:
            continue
        if bool(other.isnan().any()):
            found += ["NaN without gradients"] if "NaN without gradients" not in found else []
            continue
        off = float((output[: len(other)] - other).abs().max()) / scale
        found += [f"{what}: {off:.0e}"] if not off <= OFF else []
    return found


def _run(case: Case, layer: nn.Module, x: Tensor, mask: Tensor | None) -> tuple[Tensor, float]:
    """Give the output, and the norm of the gradient of a random direction of length one."""
    x = x.clone().requires_grad_()
    output = first(case.run(layer, x, mask if case.masked else None))
    if not output.requires_grad or not output.numel():
        return output.detach(), 0.0
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((output * direction / direction.norm()).sum(), x, allow_unused=True)
    return output.detach(), 0.0 if gradient is None else float(gradient.norm())


def _extreme(output: Tensor) -> str:
    return "NaN" if bool(output.isnan().any()) else ("infinite" if not bool(output.isfinite().all()) else "-3.4e38")


def _done(case: Case, kind: str) -> str:
    """Say what subsense does in a network with the layer: adapted, trained for a step, called, folded."""
    network = Behind(case)
    x, mask = given(case, "constant", 2)
    with torch.no_grad():
        network(torch.zeros(2, 3), x, mask)
    try:
        robust, inputs = _adapted(case, network, kind)
    except ss.SubsenseError as error:
        return f"refused at `adapt`, `{type(error).__name__}`"
    is_steep = False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            is_steep, fault = _use(robust, inputs), ""
        except ss.SubsenseError as error:
            fault = f"`{_public(error)}` names {_named(error)}"
        except Exception as error:
            fault = f"**{type(error).__name__}: {' '.join(str(error).split())[:80]}**"
    said = " ".join(str(one.message) for one in told)
    done = ["clipped, said"] if "first gradients explode" in said else ["clipped"] if is_steep else []
    done += ["rounding, said"] if "makes rounding as large" in said else []
    done += ["the first token is read"] if kind == "masked-out" else []
    return ", ".join([*done, *([fault] if fault else [])])


def _public(error: ss.SubsenseError) -> str:
    return next(one.__name__ for one in type(error).__mro__ if one.__name__ in ss.__all__)


def _named(error: ss.SubsenseError) -> str:
    """Say what an error names."""
    text = str(error)
    names = {
        "the axis": "has no size",
        "the combination": "rows with rgb",
        "the site": "at project",
        "rounding": "The cause is rounding",
        "nested tensors": "enable_nested_tensor=False",
    }
    return " and ".join(name for name, words in names.items() if words in text) or f"**{' '.join(text.split())[:80]}**"


def _adapted(case: Case, network: nn.Module, kind: str) -> tuple[ss.RobustModel, dict[str, Any]]:
    axes = " ".join(map(str, case.shape))
    letters = " ".join(letter for letter in "TUVW"[: len(case.shape)]) if kind == "empty" else axes
    fill: Any = ss.Constant(0.5) if kind == "constant" else "zeros"
    spec: dict[str, Any] = {"rgb": "3", "x": letters}
    call: Any = "kwargs"
    if case.masked:
        time = letters.split()[0]
        spec["x"] = {"x": letters, "attention_mask": f"{time}:int64"}
        call = {"x": ["x", "attention_mask"]}
        fill = ss.Constant({"x": 0.5, "attention_mask": 1}) if kind == "constant" else "zeros"
        fill = ss.Constant({"x": 0.0, "attention_mask": 1}) if kind == "zero" else fill
    robust = ss.adapt(network, spec, call=call, fill={"x": fill})
    inputs: dict[str, Any] = {"rgb": torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(2))}
    if kind == "empty":
        x, mask = given(case, kind, ROWS)
        inputs["x"] = x if mask is None else {"x": x, "attention_mask": mask}
    return robust, inputs


def _use(robust: ss.RobustModel, inputs: Mapping[str, Any]) -> bool:
    """Train for a step, call in two batch sizes, fold; say whether gradients were steep."""
    robust.mark_trained(robust.combinations)
    if "x" in inputs:
        robust.eval()(inputs)
        return False
    target = torch.zeros(ROWS, dtype=torch.int64)
    report = ss.train(
        robust, [(inputs, target)], loss=F.cross_entropy, combinations="rgb", epochs=1, progress=False, safe=False
    )
    robust.eval()
    with torch.no_grad():
        together = robust(inputs)
        alone = robust({"rgb": inputs["rgb"][:1]})
    if not bool(together.isfinite().all()):
        raise ArithmeticError("NaN")
    off = float((together[:1] - alone).abs().max() / together.abs().max())
    if off > OFF:
        raise ArithmeticError(f"other in a batch of one: {off:.0e}")
    ss.fold(robust, "rgb", example=inputs)
    return bool(report.steep)
