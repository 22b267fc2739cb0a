"""Solve adapter sets in closed form: no label, no gradient."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters.common import inner
from subsense.calibration.recorder import OutputSums, Recorder, outputs_of
from subsense.calibration.report import CalibrationReport, OutputRecovery
from subsense.calibration.rows import cut, read_rows
from subsense.calibration.samples import Sampler
from subsense.calibration.solver import Settings, Solver
from subsense.calibration.visits import Capture, Goals, Runs, Visit
from subsense.errors import CalibrationError
from subsense.injection.site import Site
from subsense.modalities import Combination, CombinationLike
from subsense.modalities.inputs import Inputs, read
from subsense.modalities.loaders import num_rows, take
from subsense.model.robust import RobustModel

RANK = 4
"""Rank that the report asks about where no method has one."""


def calibrate(
    robust: RobustModel,
    loader: Iterable[Any],
    *,
    rows: int | None = 1024,
    rank: int | None = None,
    ridge: float = 0.03,
    combinations: Iterable[CombinationLike] | None = None,
    held_out: float = 0.2,
    positions: int | None = 4096,
    chunk: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CalibrationReport:
    """Solve the adapter sets of combinations in closed form, from inputs alone; the network's weights stay as they are.

    What an adapter has to do is known without a label: turn what its layer gives with modalities missing into what it
    gave with everything present, on the same inputs. So each site in turn, in the order of the forward and with the
    sites before it already calibrated, is a least-squares problem with a closed solution: scale and shift for each
    channel, or a low-rank map (reduced-rank regression), as the methods of the plan have it. Sets that were solved
    count as trained; those of other combinations stay bit-identical. With additive sharing all combinations are solved
    together, since they share rows. Takes seconds where training takes minutes. Where it is stopped, or fails, sets of
    independent sharing that were solved before stay, so ``combinations`` without `RobustModel.trained` goes on.

    Args:
        robust: what `adapt` made.
        loader: batches of inputs ``{modality: tensor (batch, ...)}``, or ``(inputs, target)`` whose target isn't read.
            Rows that lack something are left out, since it isn't known what they give with everything present.
        rows: complete rows to read, the first ones; None: all.
        rank: highest rank of low-rank methods; None: each method's own.
        ridge: penalty on all but shifts, relative to the mean variance of what the adapter acts on. 0 with fewer rows
            than channels goes through those rows, and may be far off beside them.
        combinations: those to calibrate; by default all that have adapters.
        held_out: share of the rows that nothing is fitted on and that the report is measured on; 0: it has no shares.
        positions: most positions (pixels, tokens) of a site that are used, drawn evenly over all rows; None: all.
        chunk: rows that run as one batch; None: all. With less than all, and where a layer is called several times, the
            network runs once up to each site, instead of once: less memory, more time.
        seed: of the positions, and of a loader that shuffles.
        progress: write to stderr how far it is, where that is a terminal.

    Returns:
        What was done, and what can be recovered for each combination.

    Raises:
        CalibrationError: an argument that cannot be; recurrent layers or packed experts among the sites.
        InputError: a loader without a complete row, or batches of another form.
        ModalityError: an unknown combination, or one that has no adapters.
        LayerNeverCalled: a site that the network never reaches.

    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...         self.head = nn.Linear(3, 2)
    ...
    ...     def forward(self, left, right):
    ...         return self.head(torch.tanh(self.a(left) + self.b(right)))
    >>> import subsense as ss
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> report = ss.calibrate(robust, [{"left": torch.randn(32, 4), "right": torch.randn(32, 6)}], progress=False)
    >>> report.rows, report.held_out, report.combinations
    (26, 6, ('left', 'right'))
    >>> robust.eval()({"left": torch.randn(5, 4)}).shape
    torch.Size([5, 2])
    """
    _check(rows=rows, rank=rank, positions=positions, chunk=chunk, ridge=ridge, held_out=held_out)
    _check_methods(robust)
    asked = robust.select("all" if combinations is None else combinations)
    started = time.process_time()
    with _seeded(seed):
        found = read_rows(robust.modalities, loader, rows, robust.banks.device)
    fitted, checked = _split(found.chunks, found.count, held_out)
    count = sum(map(num_rows, fitted))
    sampler = Sampler(positions, count, seed)
    job = _Job(robust, cut(fitted, chunk or found.count), Settings(ridge, rank, sampler), Recorder(bool(checked)))
    robust.confidence = None  # what was calibrated was so for other sets
    job.solve(asked, progress)
    outputs = job.check(asked, cut(checked, chunk or found.count)) if checked else {}
    methods = list(map(inner, robust.plan.adapters))
    used = max([min(one.rank, rank or one.rank) for one in methods if hasattr(one, "rank")], default=rank or RANK)
    job.recorder.settle(used, ridge)
    return CalibrationReport(
        combinations=tuple(map(str, asked)),
        method=" + ".join(adapter.name for adapter in robust.plan.adapters),
        rank=used,
        ridge=ridge,
        rows=count,
        held_out=found.count - count,
        left_out=found.left_out,
        seconds=time.process_time() - started,
        sites=job.recorder.sites,
        outputs=outputs,
        not_finite=dict(job.recorder.not_finite),
    )


class _Job:
    """Solve and check the sets of one model."""

    def __init__(self, robust: RobustModel, chunks: Sequence[Inputs], settings: Settings, recorder: Recorder) -> None:
        self.robust, self.chunks, self.settings, self.recorder = robust, chunks, settings, recorder

    def solve(self, asked: Sequence[Combination], progress: bool) -> None:
        """Solve the sets: each for itself, or, where they share rows, all together."""
        first, single = self.chunks[0], len(self.chunks) == 1
        capture = Capture(self.settings.sampler, num_rows(first), only=None if single else ("", 0))
        self.robust.visit(read(self.robust.modalities, first), capture)
        self.robust.execution.reach.check_located(capture.calls)
        goals = capture.goals if single else None
        groups = [asked] if self.robust.sharing == "additive" else [(one,) for one in asked]
        for group in _shown(groups, progress):
            with _restoring(self.robust):
                self._solver(group, goals, capture.calls).run()
            self.robust.mark_trained(group)

    def _solver(self, group: Sequence[Combination], goals: Goals | None, calls: dict[str, int]) -> Solver:
        codes = [self.robust.modalities.code(one) for one in group]
        names = list(map(str, group))

        def watch(site: Site, place: int, own: Tensor, goal: Tensor) -> None:
            self.recorder.fit(names[place], site, own, goal)

        return Solver(self.robust, codes, self.chunks, self.settings, calls, goals, watch)

    def check(self, asked: Sequence[Combination], chunks: Sequence[Inputs]) -> dict[str, OutputRecovery]:
        """Measure on rows that were held out what is recovered, at each site and at the output."""
        sums = {str(one): OutputSums() for one in asked}
        total = sum(map(num_rows, chunks))
        sampler = Sampler(self.settings.sampler.most, total, self.settings.sampler.seed)
        for number, inputs in enumerate(chunks):
            capture = Capture(sampler, num_rows(inputs), number)
            complete = self.robust.visit(read(self.robust.modalities, inputs), capture)
            for one in asked:
                runs = Runs(self.robust, inputs, (self.robust.modalities.code(one),))
                visit = _Check(runs, sampler, number, capture.goals, self.recorder, str(one))
                calibrated = self.robust.visit(runs.batch, visit)
                frozen = self.robust.visit(runs.batch, _leave)
                sums[str(one)].add(*map(outputs_of, (complete, frozen, calibrated)))
        return {name: OutputRecovery(one.lost, one.recovered, total) for name, one in sums.items()}


class _Check(Visit):
    """Run calibrated, and note what each site gives of itself."""

    def __init__(
        self, runs: Runs, sampler: Sampler, chunk: int, goals: Goals, recorder: Recorder, combination: str
    ) -> None:
        super().__init__(runs, sampler, chunk)
        self.goals, self.recorder, self.combination = goals, recorder, combination

    def __call__(self, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        call = self.next(site)
        if self.recorder.wants(self.combination, site):
            self.recorder.check(self.combination, site, self.own(site, y, call)[0], self.goals[site.key, call])
        return self.runs.act(site, module, x, y, call, list(site.adapters))


def _leave(site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y


def _check(**given: Any) -> None:
    faults = [
        f"{name}: expected an integer above 0, or None, but found {given[name]!r}"
        for name in ("rows", "rank", "positions", "chunk")
        if given[name] is not None and not (type(given[name]) is int and given[name] > 0)
    ]
    limits = {"ridge": float("inf"), "held_out": 1}
    faults += [
        f"{name}: expected a number from 0 to below {most}, but found {given[name]!r}"
        for name, most in limits.items()
        if isinstance(given[name], bool) or not isinstance(given[name], int | float) or not 0 <= given[name] < most
    ]
    if faults:
        raise CalibrationError("calibrate: " + "; ".join(faults))


def _check_methods(robust: RobustModel) -> None:
    """Refuse methods of the user's own that don't say how they are solved."""
    for adapter in map(inner, robust.plan.adapters):
        cls = type(adapter)
        missing = [part for part in ("basis", "rest", "solve") if not callable(getattr(cls, part, None))]
        missing += ["added"] * (not hasattr(cls, "added"))
        if missing:
            raise CalibrationError(
                f"method {adapter.name!r} ({cls.__module__}.{cls.__qualname__}) can't be calibrated: it lacks "
                f"{', '.join(missing)}; see subsense.adapters.base.Adapter, or train it"
            )
    whole = list(dict.fromkeys(site.layer.path for site in robust.plan.sites if site.layer.whole))
    if whole:
        raise CalibrationError(
            f"{', '.join(whole)}: adapted in its own weights (recurrent, or packed experts), for which there is no "
            f"closed form; train it, or adapt without: exclude={whole}"
        )


def _split(chunks: Sequence[Inputs], count: int, held_out: float) -> tuple[list[Inputs], list[Inputs]]:
    """Hold rows out, evenly; at least one is left to fit on."""
    wanted = min(round(count * held_out), count - 1)
    fitted: list[Inputs] = []
    checked: list[Inputs] = []
    seen = 0
    for inputs in chunks:
        size = num_rows(inputs)
        numbers = torch.arange(seen, seen + size)
        is_checked = (numbers + 1) * wanted // count > numbers * wanted // count
        for kept, target in ((~is_checked, fitted), (is_checked, checked)):
            if kept.any():
                target.append(take(inputs, kept.nonzero().flatten(), size))
        seen += size
    return fitted, checked


@contextmanager
def _restoring(robust: RobustModel) -> Iterator[None]:
    """Put the banks back where something goes wrong."""
    before = {name: bank.detach().clone() for name, bank in robust.banks.named().items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, bank in robust.banks.named().items():
                bank.copy_(before[name])
        raise


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _shown(groups: Sequence[Sequence[Combination]], progress: bool) -> Iterator[Sequence[Combination]]:
    """Give the groups, and say on stderr how far it is."""
    shows, start = progress and sys.stderr.isatty(), time.monotonic()
    for done, group in enumerate(groups):
        if shows:
            left = f", {(time.monotonic() - start) / done * (len(groups) - done):.0f} s left" if done else ""
            sys.stderr.write(f"\rcalibrated {done}/{len(groups)}{left}\x1b[K")
            sys.stderr.flush()
        yield group
    if shows:
        sys.stderr.write("\r\x1b[K")
