"""Run the command line in this process, on a user's own network, data and recipe."""

from typer.testing import CliRunner, Result

from subsense.cli import app

OWN_CODE = """
import torch
from torch import nn
from subsense.data import Data, Samples

class Network(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, width), nn.Linear(2, width), nn.Linear(width, 2)

    def forward(self, left, right):
        return self.head(torch.relu(self.left(left) + self.right(right)))

def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)
    target = (left.sum(1) + right.sum(1) > 0).long()
    return Samples({"left": left, "right": right}, target, [str(row) for row in range(count)])

IGNORED = None

def data(num_train=48):
    return Data(name="own", modalities={"left": "3", "right": "2"}, train=samples(num_train, 0), test=samples(20, 1),
                task="classification", class_names=("minus", "plus"), metric="accuracy", source="", licence="",
                citation="", ignore_index=IGNORED)

def no_data():
    return 3

def rooted(root):
    raise KeyError(root)

class Loss(nn.CrossEntropyLoss):
    stop_after = None

    def forward(self, output, target):
        if Loss.stop_after is not None and torch.is_grad_enabled():  # steps are counted, not what is measured
            Loss.stop_after -= 1
            if Loss.stop_after < 0:
                raise KeyboardInterrupt
        return super().forward(output, target)
"""

OWN_RECIPE = """
# my own network on my own data
output: run
network:
  name: own_code:Network
data:
  name: own_code:data
adapt:
  method: [ssf, {lora: {rank: 1}}]
  sharing: additive
pretrain: {epochs: 3, lr: 1e-2, batch_size: 16}
train:
  loss: own_code:Loss
  epochs: 2
  lr: 1e-2
  batch_size: 16
evaluate:
  dedicated: [left]
  finetuned: {epochs: 1, lr: 1e-3, batch_size: 16}
"""


def run(*arguments: object) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments])


def succeed(*arguments: object) -> str:
    """Run a command line that must succeed, and give what it writes to stdout."""
    result = run(*arguments)
    assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    return result.stdout


def fail(code: int, *arguments: object) -> str:
    """Run a command line that must fail with a code and a message; give the message, on one line."""
    result = run(*arguments)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.stderr.replace("│", " ").split())
