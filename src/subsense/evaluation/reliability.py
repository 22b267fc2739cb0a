"""How far stated confidence is true: calibration error, Brier score, coverage and abstention, over batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsense.evaluation.results import Reliability
from subsense.model.confidence import Confidence, Trust, log_probabilities, read

BINS = 15


@dataclass
class _Bins:
    """Sum confidence and correctness in bins of one width (Guo et al., arXiv 1706.04599)."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(4, BINS, dtype=torch.float64))
    brier: float = 0.0

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Take in probabilities (position, class) and classes (position,)."""
        sure, value = probabilities.max(1)
        which = (sure * BINS).ceil().long().clamp(1, BINS) - 1  # as torchmetrics: upper edges belong to a bin
        rows = torch.stack([torch.ones_like(sure), sure, (value == target).double(), sure * (1 - sure)])
        self.sums.index_add_(1, which.cpu(), rows.cpu())
        truth = torch.nn.functional.one_hot(target, probabilities.shape[1])
        self.brier += float((probabilities - truth).square().sum())

    def error(self) -> float:
        """Give the expected calibration error."""
        return float((self.sums[1] - self.sums[2]).abs().sum() / self.sums[0].sum())

    def floor(self) -> float:
        """Give about the error that would be found if confidence were true: so few positions scatter."""
        return float((self.sums[3] * 2 / math.pi).sqrt().sum() / self.sums[0].sum())


class Reliable:
    """Accumulate what one combination's confidence is worth; non-finite outputs don't count in errors, but in sets."""

    def __init__(self, confidence: Confidence, trust: Trust) -> None:
        self.confidence, self.trust = confidence, trust
        self.plain, self.tempered = _Bins(), _Bins()
        self.sums = torch.zeros(5, dtype=torch.float64)  # positions, covered, size of sets, answered, wrong answers

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Take in one batch, as metrics do."""
        target = target.to(scores.device)
        said = read([self.trust] * len(scores), scores, (self.trust.combination,) * len(scores))
        if self.confidence.task == "values":
            wanted = target.reshape(scores.shape)
            low, high = said.set.unbind(-1)
            inside = (wanted >= low) & (wanted <= high)
            self._add(torch.ones_like(inside), inside, high - low, inside, inside)
            return
        counted = (target >= 0) & (target < scores.shape[1]) & (target != self.confidence.ignore_index)
        wanted = torch.where(counted, target, 0)
        covered = said.set.gather(1, wanted[:, None])[:, 0]
        wrong = (said.value != wanted) & ~said.abstain
        self._add(counted, covered, said.set.sum(1), ~said.abstain, wrong)
        logs, finite = log_probabilities(scores)
        use = counted & finite
        tempered = (scores.detach().double() / self.trust.temperature).softmax(1)
        if use.any():
            self.plain.update(logs.exp().movedim(1, -1)[use], wanted[use])
            self.tempered.update(tempered.movedim(1, -1)[use], wanted[use])

    def _add(self, counted: Tensor, *parts: Tensor) -> None:
        sums = [counted.double().sum(), *(torch.where(counted, part.double(), 0).sum() for part in parts)]
        self.sums += torch.stack(sums).cpu()

    def compute(self) -> Reliability:
        """Give the numbers."""
        count, covered, size, answered, wrong = self.sums.tolist()
        common = {"coverage": covered / count, "set_size": size / count}
        if self.confidence.task == "values":
            return Reliability(**common)
        return Reliability(
            **common,
            ece=self.tempered.error(),
            ece_before=self.plain.error(),
            ece_floor=self.tempered.floor(),
            brier=self.tempered.brier / float(self.tempered.sums[0].sum()),
            brier_before=self.plain.brier / float(self.plain.sums[0].sum()),
            answered=answered / count,
            risk=wrong / answered if answered else None,
        )
