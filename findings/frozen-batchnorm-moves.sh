#!/usr/bin/env bash
# Who moves the statistics of a frozen network: three ways of freezing a backbone under two trainers.
#
# Expected   a backbone without trainable parameters, put into eval mode by its owner, stays as it is while a head is
#            trained.
# Found      transformers' Trainer calls train() on the whole model before every step: running statistics of the frozen
#            BatchNorm move. Lightning's fit leaves the modes alone, so they stay. But Lightning's own
#            BaseFinetuning.freeze keeps BatchNorm trainable by default, and with train_bn=False the layer is put into
#            training mode without statistics of its own: while a head trains, it normalises by the batch, so training
#            sees another network than evaluation.
# With       transformers 5.23.0, lightning 2.6.6, torch 2.13.0; 2026-11-27
# Matters    with modalities missing, the statistics move towards those of the fill, and the complete combination gets
#            worse too.
# Source     transformers Trainer.training_step (`model.train()`); Lightning's release notes of 2.2 (fit keeps modes);
#            lightning/pytorch/callbacks/finetuning.py (`freeze(modules, train_bn=True)`, `track_running_stats =
#            False`).
# subsense   keeps its network in eval mode whatever mode the model is in, under both trainers, and refuses one whose
#            norms were put into training mode by hand.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "lightning==2.6.6" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import logging

import lightning
import torch
import transformers
from lightning.pytorch.callbacks import BaseFinetuning
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
transformers.logging.set_verbosity_error()
print("torch", torch.__version__, "transformers", transformers.__version__, "lightning", lightning.__version__)
torch.manual_seed(0)
data = [{"x": torch.randn(3) + 5, "labels": torch.tensor(i % 2)} for i in range(8)]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.BatchNorm1d(3).requires_grad_(False).eval()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x, labels=None):
        self.features = self.backbone(x)
        logits = self.head(self.features)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def by_trainer():
    network = Network()
    arguments = TrainingArguments(
        "out",
        max_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    Trainer(network, arguments, train_dataset=data).train()
    return network


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network()

    def training_step(self, batch, index):
        return self.network(**batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.head.parameters(), 0.1)


class Freeze(BaseFinetuning):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def freeze_before_training(self, module):
        module.network.backbone.train()  # as a fresh backbone is
        self.freeze(module.network.backbone, **self.options)

    def finetune_function(self, *_):
        pass


def by_lightning(*callbacks):
    module = Module()
    lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", callbacks=list(callbacks),
    ).fit(module, DataLoader(data, batch_size=4))  # fmt: skip
    return module.network


found = {}
for name, network in {
    "Trainer, eval() by owner": by_trainer(),
    "Lightning, eval() by owner": by_lightning(),
    "Lightning, freeze()": by_lightning(Freeze()),
    "Lightning, freeze(train_bn=False)": by_lightning(Freeze(train_bn=False)),
}.items():
    norm = network.backbone
    found[name] = (
        bool(norm.running_mean.abs().sum() > 0),
        norm.weight.requires_grad,
        bool(network.features.mean(0).abs().max() < 1e-4),
    )
    moved, trainable, by_batch = found[name]
    print(f"{name:34} statistics moved {moved!s:5} trainable {trainable!s:5} normalised by the batch {by_batch}")
assert found == {
    "Trainer, eval() by owner": (True, False, True),
    "Lightning, eval() by owner": (False, False, False),
    "Lightning, freeze()": (True, True, True),
    "Lightning, freeze(train_bn=False)": (False, False, True),
}
PY
