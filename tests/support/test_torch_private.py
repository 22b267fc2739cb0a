"""What the core relies on in torch beyond its documented interface: an upgrade of torch fails here."""

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from subsense.injection.wrapped import _WRAPPERS
from subsense.support import torch_private as private


def test_a_transform_is_seen() -> None:
    seen: list[bool] = []

    def function(x: Tensor) -> Tensor:
        seen.append(private.transforms_act())
        return x.sum()

    function(torch.ones(2))
    torch.func.grad(function)(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2, 2))
    assert seen == [False, True, True]


def test_gradients_along_the_forward_are_seen() -> None:
    assert not private.forward_gradients_act()
    with forward_ad.dual_level():
        assert private.forward_gradients_act()
    assert not private.forward_gradients_act()


def test_a_backward_pass_is_seen() -> None:
    seen: list[bool] = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append(private.in_backward()))
    assert not private.in_backward()
    x.sum().backward()
    assert seen == [True]


def test_a_change_in_place_is_seen_through_views() -> None:
    tensor = torch.zeros(4)
    before = private.version_of(tensor)
    tensor[:2].add_(1)
    assert private.version_of(tensor) > before


def test_an_alias_is_the_same_memory_with_a_version_of_its_own() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    out = y.exp()  # keeps what it gave
    before = private.version_of(y)
    private.alias_of(y).add_(1)
    assert torch.equal(y, torch.full((3,), 3.0))
    assert private.version_of(y) == before
    out.sum().backward()


@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3, 5)])
def test_both_sums_are_what_two_sums_give(shape: tuple[int, ...]) -> None:
    grad, y = torch.randn(2, *shape, dtype=torch.float64)
    found = private.both_sums(grad, y, torch.zeros(4).double(), torch.ones(4).double())
    axes = [axis for axis in range(len(shape)) if axis != 1]
    torch.testing.assert_close(found, ((grad * y).sum(axes), grad.sum(axes)))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2}], ids=str)
def test_the_gradient_of_a_convolutions_input(options: dict[str, Any]) -> None:
    module = nn.Conv2d(4, 6, 3, **options).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    y = module(x)
    grad = torch.randn_like(y)
    found = private.convolution_back(module, grad, module.weight, (x.shape, x.stride()))
    torch.testing.assert_close(found, torch.autograd.grad(y, x, grad)[0])


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_a_convolution_with_another_weight(options: dict[str, Any]) -> None:
    module = nn.Conv1d(2, 3, 3, bias=False, **options)
    x, other = torch.randn(2, 2, 7), copy.deepcopy(module)
    other.weight.data.mul_(3)
    torch.testing.assert_close(private.convolve(module, x, 3 * module.weight), other(x))


class Own(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Named(Twice):
    """Changes nothing itself."""


def test_a_class_that_computes_otherwise_is_told() -> None:
    found = [private.own_forward(cls) for cls in (Own, Twice, Named, nn.Conv2d, nn.BatchNorm1d, nn.MultiheadAttention)]
    assert found == [Own, Twice, Twice, None, None, None]


def test_every_layer_of_torch_is_known_as_torchs() -> None:
    layers = [cls for cls in vars(nn).values() if inspect.isclass(cls) and issubclass(cls, nn.Module)]
    assert len(layers) > 100
    assert not any(private.own_forward(cls) for cls in layers)


def test_bases_of_layers() -> None:
    assert isinstance(nn.Conv2d(1, 1, 1), private.Convolution)
    assert isinstance(nn.ConvTranspose2d(1, 1, 1), private.TransposedConvolution)
    assert isinstance(nn.BatchNorm2d(1), private.BatchNorm)
    assert isinstance(nn.InstanceNorm2d(1), private.InstanceNorm)
    assert isinstance(nn.InstanceNorm2d(1), private.NormBase)


def test_packed_attention_has_one_weight() -> None:
    assert private.is_packed(nn.MultiheadAttention(4, 2))
    assert not private.is_packed(nn.MultiheadAttention(4, 2, kdim=3))


@pytest.mark.parametrize(("norm", "size"), [(nn.InstanceNorm1d, (5,)), (nn.InstanceNorm3d, (2, 3, 4))])
def test_the_channels_of_an_instance_norm(norm: Any, size: tuple[int, ...]) -> None:
    axis = private.channel_axis(norm(7))
    assert torch.zeros(7, *size).shape[axis] == torch.zeros(2, 7, *size).shape[axis] == 7


def test_hooks_in_their_order() -> None:
    module, seen = nn.Linear(2, 2), []

    def first(*args: Any) -> None:
        seen.append(("first", private.is_first_hook(module, first)))

    def second(*args: Any) -> None:
        seen.append(("second", private.is_first_hook(module, second)))

    module.register_forward_hook(second)
    module.register_forward_hook(first, prepend=True)
    module(torch.ones(1, 2))
    assert seen == [("first", True), ("second", False)]
    assert list(private.forward_hooks(module)) == [first, second]
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert not private.is_first_hook(module, first)
    handle.remove()


def test_a_compiled_module_is_told() -> None:
    module = nn.Linear(2, 2)
    assert not private.was_compiled(module)
    module.compile(backend="eager")
    assert private.was_compiled(module)


def test_every_wrapper_is_where_we_look() -> None:
    import torch._dynamo
    import torch.distributed.fsdp

    found = private.loaded(_WRAPPERS)
    assert len(found) == len(_WRAPPERS)
    assert {
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        torch.distributed.fsdp.FullyShardedDataParallel,
    } <= set(found)
    assert isinstance(torch.compile(nn.Linear(1, 1)), tuple(found))
    with pytest.raises(AttributeError):
        private.loaded({"torch.nn.parallel:Renamed": "why"})
    assert private.loaded({"torch.not_loaded:Anything": "why"}) == {}


def test_what_is_constant_runs_while_a_graph_is_traced() -> None:
    calls: list[int] = []

    class Counter:
        @private.constant_in_graphs
        def count(self) -> int:
            calls.append(1)
            return 3

    counter = Counter()
    run = torch.compile(lambda x: x * counter.count(), backend="eager", fullgraph=True)
    assert torch.equal(run(torch.ones(2)), torch.full((2,), 3.0))
    run(torch.zeros(2))
    assert len(calls) == 1
    assert private.most_graphs() >= 1


def test_nested_values_are_taken_apart_and_put_together() -> None:
    value = {"a": [torch.ones(1), (torch.zeros(2),)]}
    leaves, spec = private.tree_flatten(value)
    assert [len(leaf) for leaf in leaves] == [1, 2] == [len(leaf) for leaf in private.tree_leaves(value)]
    assert isinstance(spec, private.TreeSpec)
    again = private.tree_unflatten(leaves, spec)
    assert torch.equal(again["a"][1][0], value["a"][1][0])
    assert private.tree_map(len, value) == {"a": [1, (2,)]}


def test_the_switch_of_the_fused_path() -> None:
    """Torch's fused transformer path calls no hooks; our switch keeps it away, and only ours does here."""
    from subsense.injection.fused_attention import plain_attention

    layer, calls = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval(), []
    linear = F.linear
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "linear", lambda *args: calls.append(1) or linear(*args))
        layer(torch.randn(2, 3, 8))
        assert not calls
        with plain_attention():
            layer(torch.randn(2, 3, 8))
        assert calls


def test_a_tensor_of_plain_ones_is_taken_apart() -> None:
    plain = torch.ones(3)
    assert list(private.plain_parts(plain)) == [plain]
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged)
    assert [part.tolist() for part in private.plain_parts(jagged)][:2] == [[1, 1, 0, 0, 0], [0, 2, 5]]
