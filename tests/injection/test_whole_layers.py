"""Recurrent layers and packed experts: adapted as a fold would, rows in groups, gradients as of the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss

METHODS: list[Any] = ["ssf", ["ssf", "lora"], "bitfit"]


class Run(nn.Module):
    """Run a recurrent layer over two modalities side by side."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(size, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output, _ = self.layer(torch.cat([left, right], -1))
        return self.head(output)


class Step(nn.Module):
    """Run a recurrent cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = cell, nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        state = None
        for x in torch.cat([left, right], -1).unbind(1):
            state = self.layer(x, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Experts(nn.Module):
    """Two experts whose weights are packed, as transformers has them; `turned`: as Llama 4 and gpt-oss."""

    def __init__(self, turned: bool, bias: bool) -> None:
        super().__init__()
        up, down = ((2, 4, 6), (2, 3, 4)) if turned else ((2, 6, 4), (2, 4, 3))
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(up)), nn.Parameter(torch.randn(down))
        self.turned = turned
        if bias:
            self.gate_up_proj_bias, self.down_proj_bias = (
                nn.Parameter(torch.randn(2, 6)),
                nn.Parameter(torch.randn(2, 4)),
            )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        turn = (lambda one: one) if self.turned else (lambda one: one.mT)
        added = [getattr(self, f"{name}_bias", torch.zeros(2, 1)) for name in ("gate_up_proj", "down_proj")]
        gate, up = (torch.einsum("nti,eio->neto", x, turn(self.gate_up_proj)) + added[0][:, None]).chunk(2, -1)
        out = (torch.tanh(gate) * up) @ turn(self.down_proj) + added[1][:, None]
        return torch.einsum("neto,nte->nto", out, weights)


class Mixture(nn.Module):
    def __init__(self, turned: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.layer, self.router, self.head = Experts(turned, bias), nn.Parameter(torch.randn(4, 2)), nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = torch.cat([left, right], -1)
        return self.head(x + self.layer(x, (x @ self.router).softmax(-1)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LSTM": (lambda: Run(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True), 6), 12),
    "LSTM, projected": (lambda: Run(nn.LSTM(4, 3, batch_first=True, proj_size=2), 2), 7),
    "GRU": (lambda: Run(nn.GRU(4, 3, batch_first=True), 3), 6),
    "RNN": (lambda: Run(nn.RNN(4, 3, batch_first=True, nonlinearity="relu"), 3), 6),
    "LSTM, no bias": (lambda: Run(nn.LSTM(4, 3, batch_first=True, bias=False), 3), 2),
    "LSTMCell": (lambda: Step(nn.LSTMCell(4, 3)), 6),
    "GRUCell": (lambda: Step(nn.GRUCell(4, 3)), 6),
    "experts": (Mixture, 6),
    "experts, turned": (lambda: Mixture(turned=True), 6),
    "experts, biases": (lambda: Mixture(bias=True), 8),
}
AXES = {"left": "5 2", "right": "5 2"}


def stirred(name: str, method: Any) -> ss.RobustModel:
    torch.manual_seed(0)
    robust = ss.adapt(NETWORKS[name][0]().double(), {key: f"{axes}:float64" for key, axes in AXES.items()},
                      method=method, sharing="additive")  # fmt: skip
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
    robust.mark_trained("all")
    return robust.eval()


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_fold_and_gradients_are_right(name: str, method: Any, tmp_path: Any) -> None:
    robust = stirred(name, method)
    whole = [site for site in robust.plan.sites if site.layer.path == "layer"]
    if method == "bitfit" and ("no bias" in name or name in ("experts", "experts, turned")):
        assert whole == []
        return
    assert whole
    x = {key: torch.randn(4, 5, 2, dtype=torch.float64) for key in AXES}
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
    together = robust(x, present)
    alone = torch.cat([robust({k: v[i : i + 1] for k, v in x.items()}, present[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-9)
    assert float((together - robust.pretrained(x, present)).detach().abs().max()) > 1e-3
    for key in AXES:
        args, kwargs = ss.prepare(robust, {key: x[key]})
        with torch.no_grad():
            torch.testing.assert_close(
                ss.fold(robust, key)(*args, **kwargs), robust({key: x[key]}), atol=1e-12, rtol=1e-9
            )
    _check_gradients(robust, {"left": x["left"]})
    ss.save(robust, tmp_path)
    with torch.no_grad():
        expected = robust(x, present)
        assert torch.equal(ss.load(tmp_path, robust.detach())(x, present), expected)


def _check_gradients(robust: ss.RobustModel, x: dict[str, Tensor]) -> None:
    """Compare with differences of what the network gives."""
    banks = list(robust.banks.parameters())
    robust.train()
    found = torch.autograd.grad(robust(x).square().sum(), banks)
    for bank, grad in zip(banks, found, strict=True):
        direction = torch.randn_like(bank)
        ends = []
        for step in (1e-5, -2e-5):
            bank.data += step * direction
            ends.append(float(robust(x).detach().square().sum()))
        bank.data += 1e-5 * direction
        slope = (ends[0] - ends[1]) / 2e-5
        assert slope == pytest.approx(float((grad * direction).sum()), rel=1e-5, abs=1e-6)


def test_ssf_has_a_scale_and_a_shift_for_each_gate() -> None:
    plan = ss.plan(nn.ModuleDict({"lstm": nn.LSTM(4, 3), "free": nn.LSTM(4, 3, bias=False)}))
    assert [(site.key, site.label, site.layer.channels) for site in plan.sites] == [
        ("lstm.weight_ih_l0", "ssf", 12),
        ("lstm.weight_hh_l0", "ssf", 12),
        ("free.weight_ih_l0", "ssf (scale)", 12),
        ("free.weight_hh_l0", "ssf (scale)", 12),
    ]


def test_packed_sequences_are_served_where_rows_are_alike() -> None:
    class Packed(Run):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(torch.cat([left, right], -1), [5, 3], batch_first=True)
            return self.head(nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])

    robust = ss.adapt(Packed(nn.LSTM(4, 3, batch_first=True), 3), AXES, sharing="additive")
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
        robust.mark_trained("all")
        x = {"left": torch.randn(2, 5, 2)}
        args, kwargs = ss.prepare(robust, x)
        torch.testing.assert_close(ss.fold(robust, "left")(*args, **kwargs), robust.eval()(x))


def test_the_layer_reads_its_own_weights_again_afterwards() -> None:
    robust = stirred("LSTM", "ssf")
    x = {key: torch.randn(2, 5, 2, dtype=torch.float64) for key in AXES}
    expected = NETWORKS["LSTM"][0]().double().eval()
    expected.load_state_dict(robust.network.state_dict())
    robust({"left": x["left"]})
    with torch.no_grad():
        assert torch.equal(robust(x), expected(**x))
        assert torch.equal(robust.detach()(**x), expected(**x))
