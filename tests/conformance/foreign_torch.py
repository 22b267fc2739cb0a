"""Networks of torch's own layers, and what torch can do to a network, as cases of the survey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization as quantization
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from architectures import Architecture
from conformance.survey import Case

VECTORS = {"left": "6", "right": "6"}
SEQUENCES = {"left": "5 6", "right": "5 6"}


class Sum(nn.Module):
    """Add two inputs, and give the sum to a body."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.body(left + 2 * right)


class Recurrent(nn.Module):
    """Read two sequences with a recurrent layer between two linear ones."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.before, self.recurrent = nn.Linear(6, 6), kind(6, 6, batch_first=True, **options)
        self.head = nn.LazyLinear(3)
        self.head(torch.zeros(1, 12 if options.get("bidirectional") else 6))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.recurrent(self.before(left + 2 * right))[0])


class Cells(nn.Module):
    """Go through time by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, 6), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        state = None
        for step in (left + 2 * right).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0])


class Translate(nn.Module):
    """Give one modality to the encoder, the other to the decoder."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.transformer = nn.Transformer(8, 2, 1, 1, 12, batch_first=batch_first)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.batch_first:
            return self.transformer(left, right)
        return self.transformer(left.transpose(0, 1), right.transpose(0, 1)).transpose(0, 1)


class Attend(nn.Module):
    """Attend from one modality to the other."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.attention(left, right, right)[0])


class Words(nn.Module):
    """Look words up in two ways, and multiply both."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag, self.both = nn.Embedding(20, 6), nn.EmbeddingBag(20, 6), nn.Bilinear(6, 6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.both(self.words(left).mean(1), self.bag(right)))


class InPlace(nn.Module):
    """Overwrite what layers give."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = self.norm(self.first(left + 2 * right))
        x += 1
        nn.functional.relu_(x)
        y = self.second(x).mul_(0.5)
        y[:, 0] = 0
        return nn.functional.leaky_relu_(y.add_(x), 0.1)


class Checkpointed(Sum):
    """Run the body again in the backward pass."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return checkpoint(super().forward, left, right, use_reentrant=False)


class Reads(nn.Module):
    """Read the weight of a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.read = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return nn.functional.linear(self.first(left + 2 * right), self.read.weight)


def linear(*more: nn.Module) -> nn.Module:
    return Sum(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), *more)


def every(dims: int) -> Callable[[], nn.Module]:
    """Chain every convolution and norm that torch has for so many axes."""

    def make() -> nn.Module:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1]
        return Sum(
            conv(3, 8, 3, padding=2, dilation=2, padding_mode="circular"),
            batch(8),
            nn.SyncBatchNorm(8),
            conv(8, 8, 3, groups=8, padding="same", bias=False),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            transposed(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
            instance(4, affine=True),
            nn.LocalResponseNorm(2),
            batch(4, affine=False),
            nn.LayerNorm([12] * dims),
            nn.RMSNorm(12),
            conv(4, 3, 1),
        )

    return make


def pictures(dims: int) -> dict[str, str]:
    return dict.fromkeys(("left", "right"), "3 " + " ".join(["6"] * dims))


def qat() -> nn.Module:
    network = linear().train()
    network.qconfig = quantization.get_default_qat_qconfig("x86")
    return quantization.prepare_qat(network)


def half_quantised() -> nn.Module:
    network = linear()
    network.body[0] = quantization.quantize_dynamic(nn.Sequential(network.body[0]), {nn.Linear})[0]
    return network


def compiled_within() -> nn.Module:
    network = linear()
    network.body.compile(backend="eager")
    return network


def _group() -> None:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def fsdp() -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    _group()
    return FullyShardedDataParallel(linear(), device_id=torch.device("cpu"))


def fully_sharded() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _group()
    return fully_shard(linear(), mesh=init_device_mesh("cpu", (1,)))


def distributed() -> nn.Module:
    _group()
    return nn.parallel.DistributedDataParallel(linear())


def after_a_run(network: nn.Module) -> nn.Module:
    network(torch.zeros(2, 6), torch.zeros(2, 6))
    return network


def channels_last(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return network(*(one.contiguous(memory_format=torch.channels_last) for one in inputs.values()))


def autocast(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network(**inputs)


def of(make: Callable[[], nn.Module], modalities: Any = VECTORS, call: Any = "kwargs", **options: Any) -> Case:
    return Case(Architecture(make, modalities, call), **options)


def with_layer(change: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """Put a changed linear layer after two that stay as they are."""
    return lambda: linear(change(nn.Linear(6, 6)))


COMPUTED = r"body\.3 .*its (weight|bias) is computed"
QUANTISED = r"it is quantised"
TORCH: dict[str, Case] = {
    "nn.Transformer": of(lambda: Translate(False), dict.fromkeys(VECTORS, "5 8"), fast=True),
    "nn.Transformer, batch first": of(lambda: Translate(True), dict.fromkeys(VECTORS, "5 8"), fast=True),
    "nn.MultiheadAttention, every option": of(
        lambda: Attend(add_bias_kv=True, add_zero_attn=True, kdim=6, vdim=6), {"left": "5 8", "right": "4 6"}, fast=True
    ),
    "every 1d convolution and norm": of(every(1), pictures(1), fast=True),
    "every 2d convolution and norm": of(every(2), pictures(2), fast=True),
    "every 3d convolution and norm": of(every(3), pictures(3), fast=True),
    "nn.LSTM": of(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), SEQUENCES, fast=True),
    "nn.GRU": of(lambda: Recurrent(nn.GRU), SEQUENCES, fast=True),
    "nn.RNN": of(lambda: Recurrent(nn.RNN), SEQUENCES, fast=True),
    "nn.LSTMCell": of(Cells, SEQUENCES, fast=True),
    "nn.LSTM alone": of(
        lambda: nn.LSTM(6, 6, batch_first=True),
        SEQUENCES,
        lambda network, inputs: network(inputs["left"] + inputs["right"])[0],
        fast=True,
    ),
    "embeddings, nn.Bilinear": of(Words, dict.fromkeys(VECTORS, "5:int64"), fast=True),
    "in-place forward": of(InPlace, pictures(2), fast=True),
    "channels-last": of(
        lambda: every(2)().to(memory_format=torch.channels_last), pictures(2), channels_last, fast=True
    ),
    "autocast to bfloat16": of(linear, VECTORS, autocast, tolerance=0.05, fast=True),
    "network in bfloat16": of(
        lambda: linear().bfloat16(), dict.fromkeys(VECTORS, "6:bfloat16"), tolerance=0.05, fast=True
    ),
    "network in float64": of(lambda: linear().double(), dict.fromkeys(VECTORS, "6:float64"), fast=True),
    "lazy modules, run once": of(lambda: after_a_run(Sum(nn.LazyLinear(8), nn.LazyBatchNorm1d())), fast=True),
    "lazy modules, never run": of(lambda: Sum(nn.LazyLinear(8)), refused="size isn't known yet; run", fast=True),
    "traced by torch.fx": of(lambda: torch.fx.symbolic_trace(linear()), fast=True),
    "weight_norm": of(with_layer(parametrizations.weight_norm), fast=True),
    "weight_norm, the old one": of(with_layer(weight_norm), fast=True),
    "spectral_norm": of(with_layer(parametrizations.spectral_norm), fast=True),
    "spectral_norm, the old one": of(with_layer(spectral_norm), fast=True),
    "orthogonal": of(with_layer(parametrizations.orthogonal), fast=True),
    "pruned": of(with_layer(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), refused=COMPUTED, fast=True),
    "quantised, dynamic": of(
        lambda: quantization.quantize_dynamic(linear(), {nn.Linear}), refused=QUANTISED, fast=True
    ),
    "quantised, one layer": of(half_quantised, refused=r"body\.0 .*it is quantised", fast=True),
    "quantisation-aware training": of(qat, refused=QUANTISED, fast=True),
    "torch.jit.script, a part": of(
        with_layer(torch.jit.script), refused=r"body\.3 .*it is a TorchScript module", fast=True
    ),
    "torch.jit.script, the whole": of(lambda: torch.jit.script(linear()), refused="it is a TorchScript", fast=True),
    "torch.jit.trace, a part": of(
        with_layer(lambda layer: torch.jit.trace(layer, torch.zeros(1, 6))),
        refused=r"body\.3 .*it is a TorchScript module",
        fast=True,
    ),
    "torch.compile, a part": of(
        with_layer(lambda layer: torch.compile(layer, backend="eager")), refused="it is compiled already", fast=True
    ),
    "Module.compile, a part": of(compiled_within, refused=r"`compile\(\)` was called on it", fast=True),
    "torch.export": of(
        lambda: torch.export.unflatten(torch.export.export(linear(), (torch.zeros(2, 6), torch.zeros(2, 6)))),
        refused="it was made of an exported graph",
    ),
    "FSDP": of(fsdp, refused="FullyShardedDataParallel.*splits the weights"),
    "FSDP2": of(fully_sharded, refused="`fully_shard` splits its weights"),
    "DistributedDataParallel": of(distributed, refused="would not share the adapters' gradients"),
    "DataParallel": of(lambda: nn.DataParallel(linear()), refused="splits the batch between copies", fast=True),
    "gradient checkpointing": of(
        lambda: Checkpointed(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)),
        note="torch.utils.checkpoint in the forward itself",
        fast=True,
    ),
    "meta device": of(
        lambda: linear().to("meta"), refused="is on the meta device", note="`subsense.plan` works", fast=True
    ),
    "a weight that is read, not called": of(Reads, refused="never calls read", fast=True),
}
