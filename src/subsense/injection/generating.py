"""`network.generate(...)` past the model: no adapter would act in it, so it is refused while adapters are on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from subsense.errors import PlanError

NAME = "generate"


class Generating:
    """Guard the `generate` of a network and of its parts.

    Args:
        network: the network; parts without a `generate` are left alone.
        allowed: says whether the model is calling the network, so that adapters act, or they are off.
    """

    def __init__(self, network: nn.Module, allowed: Callable[[], bool]) -> None:
        self._guards = [
            Guard(path, module, allowed)
            for path, module in network.named_modules()
            if hasattr(type(module), NAME) or NAME in vars(module)  # one that passes it on reaches a part's guard
        ]

    def attach(self) -> None:
        """Put the guards on."""
        for guard in self._guards:
            if vars(guard.module).get(NAME) is guard.own:  # somebody else's, put on meanwhile, calls the guard
                vars(guard.module)[NAME] = guard

    def detach(self) -> None:
        """Take them off; a `generate` that somebody put on meanwhile stays."""
        for guard in self._guards:
            if vars(guard.module).get(NAME) is guard:
                del vars(guard.module)[NAME]
                if guard.own is not None:
                    vars(guard.module)[NAME] = guard.own


class Guard:
    """Be the `generate` of one module: its own inside a call of the model, `PlanError` outside."""

    def __init__(self, path: str, module: nn.Module, allowed: Callable[[], bool]) -> None:
        self.path, self.module, self.allowed = path, module, allowed
        self.own: Any = vars(module).get(NAME)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate; raise `PlanError` where no adapter would act."""
        if not self.allowed() and not torch.compiler.is_compiling():
            place = f"{self.path} ({type(self.module).__name__})" if self.path else type(self.module).__name__
            raise PlanError(
                f"{place}.generate was called on the adapted network, not through the model, so no adapter would act "
                "and it would answer as the frozen network; generate with model.generate(inputs, ...), or with "
                "subsense.fold(model, combination). The frozen network's answer is wanted? with model.no_adapters(): "
                "model.network.generate(...)"
            )
        if self.own is not None:
            return self.own(*args, **kwargs)
        return getattr(type(self.module), NAME)(self.module, *args, **kwargs)
