"""What the graph passes rely on in torch beyond its documented interface: an upgrade of torch fails here."""

import torch
from torch import Tensor, nn

from subsense.deployment import torch_private as private


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor, *, parts: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.norm(x).view(-1, 2), parts["a"] + 1)


def exported() -> torch.export.ExportedProgram:
    kwargs = {"parts": {"a": torch.zeros(3)}}
    return torch.export.export(Norm().eval(), (torch.randn(3, 2, 1, 1),), kwargs)


def test_the_operations_that_decompositions_leave() -> None:
    targets = {node.target for node in exported().run_decompositions({}).graph.nodes}
    assert private.BATCH_NORM in targets
    assert targets & set(private.VIEWS)
    assert all(isinstance(one, private.OpOverload) for one in (*private.VIEWS, private.BATCH_NORM))


def test_a_module_without_guards_has_no_call_of_a_module() -> None:
    graph = exported().module(check_guards=False).graph
    assert not [node for node in graph.nodes if node.op == "call_module"]


def test_how_the_arguments_are_taken_apart() -> None:
    info = private.arguments_of(exported().module(check_guards=False))
    args, kwargs = info.in_spec.children()
    assert next(iter(info.orig_args)) == "x"
    assert (args.num_children, kwargs.context, info.out_spec.type) == (1, ["parts"], tuple)


def test_fake_tensors_have_shapes_and_no_numbers() -> None:
    with private.FakeTensorMode():
        assert (torch.zeros(2, 3) @ torch.zeros(3, 1_000_000_000)).shape == (2, 1_000_000_000)
