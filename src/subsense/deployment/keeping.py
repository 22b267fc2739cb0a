"""`save_pretrained` of a folded network: refused where `from_pretrained` would make another network of its files.

transformers makes a network from its config, so a bias that the config doesn't have is dropped, and weights that the
config ties are tied again, with no more than a line in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import nn

from subsense.errors import FoldError
from subsense.support.tables import listed

NAME = "save_pretrained"


class Unkept:
    """Be the `save_pretrained` of a module whose files would be read back as another network: raise `FoldError`.

    Args:
        class_name: the module's class.
        gained: parameters that a network made from its config lacks.
        untied: parameters that shared their values with another, and do no more.
    """

    def __init__(self, class_name: str, gained: Sequence[str], untied: Sequence[str]) -> None:
        self.class_name, self.gained, self.untied = class_name, tuple(gained), tuple(untied)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `FoldError`, naming the parameters and the ways out."""
        faults = []
        if self.gained:
            faults.append(
                f"folding gave it parameters that {self.class_name} doesn't make from its config, so from_pretrained "
                f'would drop them: {listed(self.gained)}. Adapt with method=["scale", "bitfit"] (shifts only where '
                'the network has a bias), "scale" or "lora", whose folds need none'
            )
        if self.untied:
            faults.append(
                f"folding gave own values to weights that were tied, and from_pretrained would tie them again: "
                f"{listed(self.untied)}. Leave their layers out by `exclude`"
            )
        raise FoldError(
            f"save_pretrained of the folded {self.class_name}: {'; '.join(faults)}. Or keep this fold otherwise: "
            "subsense.fold(..., export=path, example=inputs), or safetensors.torch.save_model(folded, file) and "
            "safetensors.torch.load_model into the fold itself, made again by subsense.fold"
        )


def guard_keeping(network: nn.Module, folded: nn.Module) -> None:
    """Refuse `save_pretrained` of a folded network, and of its parts, where it would not keep what was folded.

    Args:
        network: what was folded; another fold may have guarded it, which holds for its copies too.
        folded: its copy with a set in it.
    """
    before = dict(network.named_parameters(remove_duplicate=False))
    after = dict(folded.named_parameters(remove_duplicate=False))
    gained = [name for name in after if name not in before]
    untied = _untied(before, after)
    for path, module in folded.named_modules():
        if hasattr(type(module), NAME):
            _guard(module, path, gained, untied)


def _guard(module: nn.Module, path: str, gained: Sequence[str], untied: Sequence[Sequence[str]]) -> None:
    prefix = f"{path}." if path else ""
    new = [name.removeprefix(prefix) for name in gained if name.startswith(prefix)]
    inside = ([name.removeprefix(prefix) for name in names if name.startswith(prefix)] for names in untied)
    apart = [name for names in inside if len(names) > 1 for name in names]
    old = vars(module).get(NAME)
    if isinstance(old, Unkept):
        new, apart = [*old.gained, *new], [*old.untied, *apart]
    if new or apart:
        vars(module)[NAME] = Unkept(type(module).__name__, new, apart)


def _untied(before: dict[str, nn.Parameter], after: dict[str, nn.Parameter]) -> list[list[str]]:
    shared: dict[nn.Parameter, list[str]] = {}
    for name, parameter in before.items():
        shared.setdefault(parameter, []).append(name)
    return [names for names in shared.values() if len({id(after[name]) for name in names if name in after}) > 1]
