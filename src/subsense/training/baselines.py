"""What adapters are compared with: networks trained as a whole, through the same fill, call and loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from subsense.adapters.layers.foreign import strange_tensor
from subsense.errors import TrainingError
from subsense.modalities import AxisSpec, Combination, CombinationLike, Modalities
from subsense.modalities.calling import CallSpec, parse_call, spread_arguments
from subsense.modalities.declaration import Wanted
from subsense.modalities.filling import Filling
from subsense.model.filled import FilledNetwork
from subsense.model.robust import RobustModel
from subsense.training.adapters import make_validation
from subsense.training.loop import fit
from subsense.training.losses import Distill, Loss, Select, make_objective
from subsense.training.options import TrainOptions
from subsense.training.run import Part, Run, check_loader
from subsense.training.sampling import Drawer
from subsense.training.seeding import random_state_kept, seed_everything
from subsense.training.trainee import Weights, teacher_of

if TYPE_CHECKING:
    from subsense.evaluation.metrics import MetricLike

WEIGHTS_LR = 1e-3
"""Highest learning rate by default where all weights train; adapters bear ten times as much."""


def train_dedicated(
    robust: RobustModel,
    factory: Callable[[], nn.Module],
    loader: Any,
    combination: CombinationLike,
    *,
    loss: Loss | Distill | Literal["distill"],
    val_loader: Any = None,
    metric: MetricLike | None = None,
    select: Select | None = None,
    **options: Any,
) -> nn.Module:
    """Train a new network for one combination alone, end to end: the "dedicated" column of a result.

    Args:
        robust: its modalities, fill and call are used; it stays as it is.
        factory: makes a network of the same kind, not trained for this task; what it draws depends on `seed` alone.
        loader: batches ``(inputs, target)``, as for `subsense.train`.
        combination: what the network is given; the rest is filled. The complete one is allowed.
        loss: as for `subsense.train`.
        val_loader: as for `subsense.train`; the best epoch's weights are kept.
        metric: as for `subsense.train`.
        select: as for `subsense.train`.
        options: those of `subsense.training.TrainOptions`; `lr` is 1e-3 by default.

    Returns:
        The network, in eval mode.

    Raises:
        TrainingError: an argument that cannot be, or what training ran into.
        ModalityError: an unknown combination.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}, torch.randint(3, (8,))
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> alone = ss.train_dedicated(
    ...     robust, Sum, [batch], "left", loss=nn.functional.cross_entropy, epochs=1, progress=False
    ... )
    >>> alone(left=torch.zeros(2, 4), right=torch.zeros(2, 6)).shape
    torch.Size([2, 3])
    """
    asked = (robust.modalities.combination(combination),)
    teacher = teacher_of(robust)

    def make() -> FilledNetwork:
        network = factory()
        if not isinstance(network, nn.Module) or network is robust.network:
            found = "the adapted network itself" if network is robust.network else type(network).__name__
            raise TrainingError(f"factory: expected it to make a new network, but it gave {found}")
        return robust.filled(network)

    return _train_weights(make, robust.modalities, loader, asked, "dedicated", None, loss, teacher, val_loader, metric,
                          select, options)  # fmt: skip


def finetune(
    robust: RobustModel,
    loader: Any,
    *,
    loss: Loss | Distill | Literal["distill"],
    combinations: Wanted | None = None,
    weights: Mapping[CombinationLike, float] | None = None,
    val_loader: Any = None,
    metric: MetricLike | None = None,
    select: Select | None = None,
    **options: Any,
) -> nn.Module:
    """Train a copy of the network with modality dropout: all weights, every row with a combination that it draws.

    That is what one would do without adapters. It costs a whole network, and changes it for the complete inputs too.

    Args:
        robust: the network that is copied; it stays as it is.
        loader: batches ``(inputs, target)``, as for `subsense.train`.
        loss: as for `subsense.train`.
        combinations: those that rows draw from; all by default, the complete one included.
        weights: combination -> how often it is drawn relative to the others (default 1).
        val_loader: as for `subsense.train`; the best epoch's weights are kept.
        metric: as for `subsense.train`.
        select: as for `subsense.train`.
        options: those of `subsense.training.TrainOptions`; `lr` is 1e-3 by default.

    Returns:
        The copy, in eval mode.

    Raises:
        TrainingError: an argument that cannot be, or what training ran into.
        ModalityError: an unknown combination.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}, torch.randint(3, (8,))
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> tuned = ss.finetune(robust, [batch], loss=nn.functional.cross_entropy, epochs=1, progress=False)
    >>> type(tuned).__name__, tuned is robust.network
    ('Sum', False)
    """
    modalities = robust.modalities
    asked = modalities.select("all" if combinations is None else combinations, complete=True)

    def make() -> FilledNetwork:
        with robust.no_adapters():
            return robust.filled(copy.deepcopy(robust.network))

    return _train_weights(make, modalities, loader, asked, "fine-tuned", weights, loss, teacher_of(robust), val_loader,
                          metric, select, options)  # fmt: skip


def pretrain(
    network: nn.Module,
    modalities: Mapping[str, AxisSpec] | Modalities,
    loader: Any,
    *,
    loss: Loss,
    call: CallSpec = "kwargs",
    val_loader: Any = None,
    metric: MetricLike | None = None,
    select: Select | None = None,
    **options: Any,
) -> nn.Module:
    """Train a network in place with every modality present, as what is adapted afterwards.

    Args:
        network: what is trained; its own weights change.
        modalities: as for `subsense.adapt`.
        loader: batches ``(inputs, target)``, as for `subsense.train`; rows that lack a modality are left out.
        loss: ``(output, target) -> scalar``.
        call: as for `subsense.adapt`.
        val_loader: as for `subsense.train`; the best epoch's weights are kept.
        metric: as for `subsense.train`.
        select: as for `subsense.train`.
        options: those of `subsense.training.TrainOptions`; `lr` is 1e-3 by default.

    Returns:
        The same network, in eval mode.

    Raises:
        TrainingError: an argument that cannot be, or what training ran into.
        ModalityError: a declaration that cannot be.
    """
    if not isinstance(modalities, Modalities):
        modalities = Modalities(spread_arguments(Modalities(modalities).spec, call))
    parsed = parse_call(call, modalities)
    filled = FilledNetwork(network, Filling(modalities, arguments=parsed.arguments), parsed)
    return _train_weights(lambda: filled, modalities, loader, (modalities.complete,), "pretrained", None, loss, None,
                          val_loader, metric, select, options)  # fmt: skip


def _train_weights(
    make: Callable[[], FilledNetwork],
    modalities: Modalities,
    loader: Any,
    combinations: tuple[Combination, ...],
    kind: str,
    weights: Mapping[CombinationLike, float] | None,
    loss: Loss | Distill | Literal["distill"],
    teacher: Any,
    val_loader: Any,
    metric: MetricLike | None,
    select: Select | None,
    options: Mapping[str, Any],
) -> nn.Module:
    """Check everything, make the network, train all its weights, and give it back in eval mode."""
    checked = TrainOptions.of(options, lr=WEIGHTS_LR)
    objective = make_objective(loss, teacher, select)
    check_loader("loader", loader, checked.schedule)
    validation = make_validation(val_loader, metric, objective, select, checked)
    parts = (Part(combinations, Drawer(modalities, combinations, weights)),)
    with random_state_kept():
        seed_everything(checked.seed, "network")
        filled = make()
    _check_trainable(filled.network)
    for parameter in filled.network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    fit(Run(Weights(filled), loader, objective, parts, checked, validation, {"strategy": kind}))
    return filled.network.eval()


def _check_trainable(network: nn.Module) -> None:
    """Raise `TrainingError` for weights of a class of their own: codes of 8 or 4 bits can't be trained."""
    for path, module in network.named_modules():
        if why := strange_tensor(module):
            raise TrainingError(
                f"{path or 'the network'} ({type(module).__name__}): {why}, and can't be trained; train a network "
                "whose weights are plain, as it was before quantising"
            )
