"""Lightning trains adapter sets: a LightningModule around an adapted network. Needs ``subsense[lightning]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from subsense.integrations.objective import Unused, batch_loss, check_belongs
from subsense.modalities import CombinationLike
from subsense.modalities.loaders import split
from subsense.model.robust import RobustModel
from subsense.training.losses import Distill, Loss, Select
from subsense.training.seeding import derive_seed

KEY = "subsense.fingerprint"


class AdapterModule(pl.LightningModule):
    """Train the adapter sets of a robust model by Lightning's `Trainer`.

    Every row of every training batch draws what it keeps. Validation logs ``val_loss`` (mean over the combinations,
    each on the rows that have all of it) and ``val_loss/COMBINATION``. A checkpoint holds the adapters and which of
    them are trained, not the network's weights: it is loaded into the same network, adapted in the same way.

    Args:
        robust: what `subsense.adapt` made.
        loss: as for `subsense.train`: a function, ``"distill"`` or a `Distill`.
        combinations: those to train; by default all that have adapters. The others stay bit-identical.
        weights: combination -> how often it is drawn relative to the others.
        select: as for `subsense.train`.
        lr: highest learning rate of AdamW; it rises and falls once over the run. Override `configure_optimizers` for
            another optimiser.
        weight_decay: AdamW's; it pulls adapters to the identity.
        seed: of the draws.

    Raises:
        TrainingError, ModalityError: an argument that can't be.
    """

    def __init__(
        self,
        robust: RobustModel,
        loss: Loss | Distill | str,
        *,
        combinations: Iterable[CombinationLike] | None = None,
        weights: Mapping[CombinationLike, float] | None = None,
        select: Select | None = None,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.robust, self.lr, self.weight_decay, self.seed = robust, lr, weight_decay, seed
        self._batch_loss = batch_loss(robust, loss, combinations, weights, select)
        self._unused: Unused | None = None
        self.strict_loading = False  # the network's weights are not in the checkpoint

    def forward(self, inputs: Any, present: Tensor | None = None) -> Any:
        """Give the network's own output; see `RobustModel.forward`."""
        return self.robust(inputs, present)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give the loss of a batch whose rows draw what they keep."""
        step = derive_seed(self.seed, "draw", self.current_epoch, batch_idx, self.global_rank)
        loss, _ = self._batch_loss.drawn(batch, step)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of every combination."""
        found = list(self._batch_loss.each(batch))
        for combination, loss, rows in found:
            self.log(f"val_loss/{combination}", loss, batch_size=rows)
        if found:
            mean = torch.stack([loss for _, loss, _ in found]).mean()
            self.log("val_loss", mean, prog_bar=True, batch_size=max(rows for *_, rows in found))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Give the network's output for what a batch has."""
        return self.robust(split(batch)[0])

    def configure_optimizers(self) -> Any:
        """Give AdamW over the adapters alone, with one rise and fall of the learning rate."""
        parameters = list(self.robust.adapter_parameters().values())
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=max(steps, 2), pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Take down what this run must not move."""
        self._unused = Unused(self.robust, self._batch_loss.combinations)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, and leave the sets that are not trained as they were."""
        super().optimizer_step(*args, **kwargs)
        if self._unused is not None:
            self._unused.restore()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapters alone, which of them are trained, and whose they are."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: x for name, x in weights.items() if not name.startswith("robust.network.")}
        checkpoint[KEY] = self.robust.network_fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the sets belong to this network; raise `OtherNetwork` where they don't."""
        check_belongs(self.robust, str(checkpoint[KEY]))
