"""The contract of every adapter at every kind of layer, and that the checks notice when it is broken."""

import dataclasses
from unittest import mock

import pytest
import torch
from torch import nn

from subsense import PlanError
from subsense.adapters import METHODS, SSF, BitFit, LoRA, Norm, Scale, Shift
from subsense.routing.router import SHARINGS
from subsense.testing import LAYER_KINDS, check_adapter, check_dataset, check_network

NORMS = {name for name in LAYER_KINDS if "Norm" in name or "norm" in name}
NO_BIAS = {"Linear, no bias", "Conv2d, groups", "ConvTranspose3d", "BatchNorm2d, no affine", "LayerNorm, no affine",
           "InstanceNorm2d", "RMSNorm", "MultiheadAttention, own widths"}  # fmt: skip
NO_AFFINE = {"BatchNorm2d, no affine", "LayerNorm, no affine", "InstanceNorm2d"}
UNSERVED = {
    "ssf": set(),
    "scale": set(),
    "shift": {"RMSNorm"},
    "bitfit": NO_BIAS,
    "norm": (set(LAYER_KINDS) - NORMS) | NO_AFFINE,
    "lora": NORMS,
    "embedding": set(LAYER_KINDS),
}
SERVED = [(method, kind) for method in METHODS for kind in LAYER_KINDS if kind not in UNSERVED[method]]
COMPILED = (
    "Linear",
    "Conv2d, groups",
    "ConvTranspose2d",
    "BatchNorm2d",
    "RMSNorm",
    "MultiheadAttention, sequence first",
)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(("method", "kind"), SERVED)
def test_every_method_keeps_the_contract_at_every_layer_it_claims(method, kind, sharing):
    check_adapter(method, kind, sharing=sharing, compiled=False)


@pytest.mark.parametrize(("method", "kind"), [pair for pair in SERVED if pair[1] in COMPILED])
def test_compiled_and_exported(method, kind):
    check_adapter(method, kind, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(("method", "kind"), SERVED)
def test_compiled_and_exported_everywhere(method, kind, sharing):
    check_adapter(method, kind, sharing=sharing, compiled=True)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "ConvTranspose2d", "MultiheadAttention"])
def test_methods_act_together(kind):
    check_adapter([SSF(), LoRA(rank=2, alpha=4)], kind, compiled=False)


@pytest.mark.parametrize(("method", "kind"), [(m, kind) for m, kinds in UNSERVED.items() for kind in sorted(kinds)])
def test_a_layer_that_a_method_does_not_claim_is_refused(method, kind):
    with pytest.raises(PlanError):
        check_adapter(method, kind, compiled=False)


# One broken line for each adapter, as a function that replaces a method of it.
BROKEN = {
    "ssf, shift forgotten in the fold": (SSF, "fold", lambda self, layer, row, w, b: Scale().fold(layer, row, w, b)),
    "ssf, scale not from the identity": (
        SSF,
        "apply",
        lambda self, layer, module, bank, mix, x, y: y * mix.blend(bank["scale"], y, layer.axis),
    ),
    "scale, bias not scaled": (
        Scale,
        "fold",
        lambda self, layer, row, w, b: (Scale.fold.__wrapped__(self, layer, row, w, b)[0], b),
    ),
    "scale, another row's set": (
        Scale,
        "apply",
        lambda self, layer, module, bank, mix, x, y: y * (1 + mix.blend(bank["scale"].flip(0), y, layer.axis)),
    ),
    "shift, counted twice": (Shift, "fold", lambda self, layer, row, w, b: (w, b + 2 * row["shift"])),
    "bitfit, no gradient": (
        BitFit,
        "apply",
        lambda self, layer, module, bank, mix, x, y: y + mix.blend(bank["bias"].detach(), y, layer.axis),
    ),
    "norm, affine output instead of normalised": (
        Norm,
        "apply",
        lambda self, layer, module, bank, mix, x, y: y + y * mix.blend(bank["weight"], y, layer.axis)
        + mix.blend(bank["bias"], y, layer.axis),
    ),
    "lora, starts elsewhere": (LoRA, "start", lambda self, name, row, generator: row.normal_(generator=generator)),
    "lora, no seed": (LoRA, "start", lambda self, name, row, generator: row.normal_() if name == "down" else None),
    "lora, factor forgotten in the fold": (
        LoRA,
        "fold",
        lambda self, layer, row, w, b: LoRA.fold.__wrapped__(dataclasses.replace(self, alpha=None), layer, row, w, b),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_noticed(name):
    adapter, attribute, broken = BROKEN[name]
    original = getattr(adapter, attribute)
    broken.__wrapped__ = original
    kind = "GroupNorm" if adapter is Norm else "Conv2d"
    method = LoRA(rank=2, alpha=6) if adapter is LoRA else adapter()
    with mock.patch.object(adapter, attribute, broken), pytest.raises(AssertionError):
        check_adapter(method, kind, compiled=False)


class Reads(nn.Module):
    """Reads a parameter that its own forward changes: a network that is not left as it was."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, left, right):
        self.calls += 1
        return self.left(left) + self.right(right)


def test_a_network_that_changes_itself_is_noticed():
    inputs = {"left": torch.randn(4, 3), "right": torch.randn(4, 3)}
    with pytest.raises(AssertionError, match="changes the network's calls"):
        check_network(Reads(), {"left": "3", "right": "3"}, inputs, compiled=False)


def test_a_data_set_that_does_not_fit_is_noticed():
    items = [({"left": torch.zeros(3), "right": torch.zeros(4)}, 1)] * 3
    check_dataset(items, {"left": "3", "right": "4"})
    with pytest.raises(ValueError, match="expected size 5"):
        check_dataset(items, {"left": "3", "right": "5"})


def test_a_data_set_that_draws_anew_at_every_reading_is_noticed():
    class Drawing(list):
        def __getitem__(self, index):
            return {"left": torch.rand(3)}, 0

    with pytest.raises(AssertionError, match="twice"):
        check_dataset(Drawing([0]), {"left": "3", "right": "5"})
