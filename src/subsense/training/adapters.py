"""Train the adapter sets of a robust model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subsense.calibration import calibrate
from subsense.degradation import Degrader, Kinds
from subsense.errors import TrainingError
from subsense.evaluation.metrics import build
from subsense.modalities import Combination, CombinationLike
from subsense.modalities.declaration import Wanted
from subsense.model.robust import RobustModel
from subsense.training.loop import fit
from subsense.training.losses import Distill, Loss, Objective, Select, make_objective
from subsense.training.options import TrainOptions, one_of
from subsense.training.report import TrainingReport
from subsense.training.run import Part, Run, check_loader
from subsense.training.safety import Before, keep_better, rows_to_measure
from subsense.training.sampling import DEGRADED, Drawer
from subsense.training.seeding import random_state_kept, seed_everything, seed_loader
from subsense.training.state import check_vacant, has_state
from subsense.training.trainee import Adapters, teacher_of
from subsense.training.validation import Validation

if TYPE_CHECKING:
    from subsense.evaluation.metrics import MetricLike

STRATEGIES = ("joint", "separate")


def train(
    robust: RobustModel,
    loader: Any,
    *,
    loss: Loss | Distill | Literal["distill"],
    strategy: Literal["joint", "separate"] = "joint",
    start: Literal["calibrated"] | None = None,
    degrade: Degrader | Kinds | Mapping[str, Kinds] | None = None,
    safe: bool = True,
    combinations: Wanted | None = None,
    weights: Mapping[CombinationLike, float] | None = None,
    select: Select | None = None,
    val_loader: Any = None,
    metric: MetricLike | None = None,
    epochs: int = 20,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    warmup: float = 0.1,
    schedule: Literal["cosine", "poly", "constant"] = "cosine",
    clip: float | None = None,
    accumulate: int = 1,
    precision: Literal["no", "bf16"] = "no",
    dropout: bool = False,
    seed: int = 0,
    patience: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    progress: bool = True,
    log_with: Literal["tensorboard"] | None = None,
) -> TrainingReport:
    """Train the adapter sets of combinations; the network's weights stay as they are.

    The same call runs on a CPU, a GPU, or several processes (``accelerate launch``); batches are shared between these.
    Adapter sets of combinations that are not asked for stay bit-identical.

    Args:
        robust: what `adapt` made; moved to the run's device.
        loader: batches ``(inputs, target)``: a `DataLoader` or a list. Inputs are ``{modality: tensor (batch, ...)}``;
            where the data itself lacks modalities, they leave them out or hold ``"present"``, bool (batch, modality).
        loss: ``(output, target) -> scalar``, a mean over rows; or ``"distill"`` or a `Distill`, which read no labels.
        strategy: ``"joint"``: every row of every batch draws a combination of its own. ``"separate"``, the paper's way
            (arXiv 2310.03986): one combination after the other, each as if trained alone.
        start: ``"calibrated"``: begin with sets solved in closed form, see `subsense.calibrate`; None: as they are.
        degrade: train for sensors that fade, too: names of `subsense.degradation.DEGRADATIONS`, ``"all"``, modality ->
            names, or a `Degrader`. Of what a row's combination lacks, half is there after all, degraded: by a kind
            drawn for the row, at a severity uniform in (0, 5), with a quality of 1 - severity / 5. A teacher sees
            healthy rows. Joint only.
        safe: measure on some rows of the loader, for each combination, the loss of the frozen network, of the sets at
            the start and of those at the end, and give back what was better: each combination's own with independent
            sharing; with additive sharing, whose rows are shared, all of them where the mean got worse, so that single
            combinations may end worse. The report has these losses, and names those.
        combinations: those to train; by default all that have adapters. A row draws among those that it has the
            modalities for, and is left out where there is none.
        weights: combination -> how often it is drawn relative to the others (default 1); joint only.
        select: ``output -> tensor``: what of the output `loss`, distillation and metric are about. By default `loss` is
            given the whole output, and the others take the tensor itself or its ``logits``.
        val_loader: measured after every epoch, for each combination; the best epoch's parameters are kept at the end.
        metric: what to measure there: a name of `subsense.evaluation.metrics`, or a torchmetrics object; by default the
            loss.
        epochs: passes over the loader.
        lr: highest learning rate of AdamW.
        weight_decay: AdamW's; it pulls adapters to the identity.
        warmup: steps over which the learning rate rises; below 1: as a share of all steps.
        schedule: the learning rate's way down: ``"cosine"``, ``"poly"`` (power 0.9) or ``"constant"``.
        clip: largest L2 norm of the gradient; None: clips only at sites where a combination's first gradients
            explode, see `TrainingReport.steep`.
        accumulate: batches that make one step together.
        precision: ``"bf16"`` runs the network under autocast.
        dropout: let the network's Dropout layers drop. Otherwise it runs in eval mode as a whole.
        seed: of every random draw, data order included; the caller's own random state is left as it was.
        patience: stop after so many epochs without a better validation.
        folder: where the state of the run is kept after every epoch.
        resume: go on from `folder`, to the same bits (on a CPU) as if never stopped; start if nothing was kept yet.
        save_every: keep the state after so many steps, too.
        progress: show a bar on stderr.
        log_with: ``"tensorboard"`` writes curves under ``folder/logs``.

    Returns:
        What was done: steps, seconds, and loss and metric of every epoch.

    Raises:
        TrainingError: an argument that cannot be, found before anything is changed; a folder with another run's state;
            an epoch in which no row could be used.
        NonFiniteLoss: NaN or infinity, at which step, combination and site; the parameters are those of before it.
        ModalityError: an unknown combination, or one that has no adapters.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}, torch.randint(3, (8,))
    >>> report = ss.train(robust, [batch], loss=nn.functional.cross_entropy, epochs=3, progress=False)
    >>> report.steps, [str(one) for one in robust.trained]
    (3, ['left', 'right'])
    """
    options = TrainOptions(
        epochs=epochs, lr=lr, weight_decay=weight_decay, warmup=warmup, schedule=schedule, clip=clip,
        accumulate=accumulate, precision=precision, dropout=dropout, seed=seed, patience=patience,
        folder=folder, resume=resume, save_every=save_every, progress=progress, log_with=log_with,
    )  # fmt: skip
    asked = robust.select("all" if combinations is None else combinations)
    _check_strategy(robust, strategy, weights, degrade)
    objective = make_objective(loss, teacher_of(robust), select)
    check_loader("loader", loader, schedule)
    validation = make_validation(val_loader, metric, objective, select, options)
    groups = [(one,) for one in asked] if strategy == "separate" else [asked]
    degrader = None if degrade is None else make_degrader(robust, loader, degrade, seed)
    degraded = None if degrader is None else dict.fromkeys(degrader.kinds, DEGRADED)
    parts = tuple(Part(group, Drawer(robust.modalities, group, weights, degraded)) for group in groups)
    facts: dict[str, Any] = {"strategy": strategy, "network": robust.network_fingerprint()} if folder else {}
    facts |= {"start": start} if start else {}
    facts |= {"degrade": {name: list(map(str, kinds)) for name, kinds in degrader.kinds.items()}} if degrader else {}
    _begin(robust, loader, start, asked, options)
    robust.confidence = None  # what was calibrated was so for other sets
    before = Before.of(robust, asked)
    splitting = robust.execution.splitting
    with splitting.own_gradients() if splitting else nullcontext():  # the loop adds them up, over rows
        report = fit(Run(Adapters(robust, dropout), loader, objective, parts, options, validation, facts, degrader))
    report = replace(report, silent=robust.plan.silent())
    if trained := [one for one in asked if report.rows[str(one)]]:
        robust.mark_trained(trained)
    if not safe or not trained:
        return report
    rows = rows_to_measure(sum(report.rows.values()), len(asked))
    return replace(report, losses=keep_better(robust, loader, objective, trained, before, rows, seed))


def _begin(
    robust: RobustModel, loader: Any, start: str | None, asked: Sequence[Combination], options: TrainOptions
) -> None:
    """Make the sets that training starts with, unless it goes on."""
    if start not in (None, "calibrated"):
        raise TrainingError(f"start: expected None or 'calibrated', but found {start!r}")
    if options.folder is not None and not options.resume:
        check_vacant(options.folder)
    goes_on = options.folder is not None and has_state(options.folder)
    if start and not goes_on:
        calibrate(robust, loader, combinations=asked, held_out=0.0, seed=options.seed, progress=options.progress)


def make_validation(
    val_loader: Any,
    metric: MetricLike | None,
    objective: Objective,
    select: Select | None,
    options: TrainOptions,
) -> Validation | None:
    """Make the validation that was asked for; None where none was.

    Raises:
        TrainingError: a metric or patience without a loader to measure on.
        MetricError: an unknown metric.
    """
    measure = None if metric is None else build(metric)
    if val_loader is None:
        given = {"metric": metric, "patience": options.patience}
        if needy := [name for name, value in given.items() if value is not None]:
            raise TrainingError(f"{' and '.join(needy)}: needs val_loader, to be measured on")
        return None
    check_loader("val_loader", val_loader)
    return Validation(val_loader, objective, measure, select)


def make_degrader(
    robust: RobustModel, loader: Any, degrade: Degrader | Kinds | Mapping[str, Kinds], seed: int
) -> Degrader:
    """Give the degrader, or make one that learns from the loader's first rows what is healthy.

    Raises:
        TrainingError: one made for other modalities.
        ModalityError, InputError: see `Degrader`.
    """
    if not isinstance(degrade, Degrader):
        with random_state_kept(loader):
            seed_everything(seed, "degrade")
            seed_loader(loader, 0, seed, "degrade")
            return Degrader(robust.modalities, loader, kinds=degrade)
    if degrade.modalities != robust.modalities:
        raise TrainingError(f"degrade: expected a Degrader for {robust.modalities.spec}, but found one for "
                            f"{degrade.modalities.spec}")  # fmt: skip
    return degrade


def _check_strategy(robust: RobustModel, strategy: str, weights: object, degrade: object) -> None:
    for fault in one_of("strategy", strategy, STRATEGIES):
        raise TrainingError(fault)
    if strategy == "joint":
        return
    if degrade is not None:
        raise TrainingError("degrade: a quality between 0 and 1 mixes sets, which strategy 'separate' trains one by "
                            "one; use strategy='joint'")  # fmt: skip
    if robust.sharing != "independent":
        raise TrainingError(f"strategy 'separate' needs sharing='independent', but found {robust.sharing!r}: its rows "
                            "are shared, so one combination would change the others; use strategy='joint'")  # fmt: skip
    if robust.fill.names().keys() & robust.adapter_parameters().keys():
        raise TrainingError("strategy 'separate' can't train a learned fill, which is shared; use strategy='joint'")
    if weights is not None:
        raise TrainingError("weights: strategy 'separate' draws nothing; leave them out, or use strategy='joint'")
