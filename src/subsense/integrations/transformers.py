"""Multimodal language models: which arguments belong to a modality, and how the prompt looks without it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import ModalityError

Inputs = Mapping[str, Any]


class LanguageModelCall:
    """Call a language model whose prompt holds placeholder tokens for its other modalities; the `call` of `adapt`.

    With ``fill="omit"`` a modality that is missing is as its authors meant: its arguments are not passed, and its
    tokens are taken out of the prompt. The prompt keeps its length: padding, masked, stands before what is left, so
    that the last position is every row's last token, and outputs of different combinations can be put together.

    Args:
        tokens: modality -> ids of the tokens that stand for it in the prompt, those around them too.
        text: the modality that holds the prompt.
        ids: its part with the token ids, (batch, length).
        mask: its part that says which tokens count; made where the declaration lacks it.
        prompt: token ids that stand in where the text is missing, placeholders of every modality among them.
        pad: the id of padding.
        packed: arguments of which the model wants all rows in one, (batch, n, ...) as (batch * n, ...): patches of
            Qwen's models, lists of pictures.
        types: argument -> token -> the number that it has there, others 0: which tokens are a picture's, for Qwen's
            models ``{"mm_token_type_ids": {image_token: 1}}``, for Gemma's ``{"token_type_ids": {image_token: 1}}``.
        fixed: argument -> numbers of one row, which every row gets: an instruction, what a decoder begins with.
        length: shorter prompts are padded to it, so that a prompt that stands in for the text is as long as those
            that it stands beside.
        trim: take away what is padding in every row; lengths then differ between combinations.
        outputs: names in the model's output that are kept; None: all. Lists of towers' outputs have no row each, and
            such an output can't be put together where rows differ.

    >>> call = LanguageModelCall({"image": [9]}, prompt=[1, 9, 9, 5])
    >>> call.arguments(nn.Identity(), {"text": {"input_ids": torch.tensor([[1, 9, 9, 4, 7]])}})["input_ids"]
    tensor([[0, 0, 1, 4, 7]])
    >>> call.arguments(nn.Identity(), {"image": {"pixel_values": torch.ones(2, 3)}})["input_ids"]
    tensor([[1, 9, 9, 5],
            [1, 9, 9, 5]])
    """

    def __init__(
        self,
        tokens: Mapping[str, Iterable[int]],
        *,
        text: str = "text",
        ids: str = "input_ids",
        mask: str = "attention_mask",
        prompt: Sequence[int] | None = None,
        pad: int = 0,
        packed: Collection[str] = (),
        types: Mapping[str, Mapping[int, int]] | None = None,
        fixed: Mapping[str, Sequence[int]] | None = None,
        length: int = 0,
        trim: bool = False,
        outputs: Collection[str] | None = None,
    ) -> None:
        self.tokens = {name: tuple(found) for name, found in tokens.items()}
        self.text, self.ids, self.mask, self.prompt, self.pad = text, ids, mask, prompt, pad
        self.packed, self.types = frozenset(packed), dict(types or {})
        self.fixed, self.length, self.trim = dict(fixed or {}), length, trim
        self.outputs = outputs

    def __call__(self, network: nn.Module, inputs: Inputs) -> Any:
        """Run one forward, without a cache of keys and values, which only generating needs."""
        options = {"use_cache": False} if _takes(network, "use_cache") else {}
        output = network(**self.arguments(network, inputs), **options)
        if self.outputs is None:
            return output
        return type(output)(**{name: output[name] for name in self.outputs})

    def arguments(self, network: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """Give the arguments of a forward, or of `generate`, for rows that all have the same modalities.

        Raises:
            ModalityError: the text is missing, and there is no prompt that stands in for it.
        """
        given = {name: _parts(name, value) for name, value in inputs.items()}
        others = {
            argument: tensor.flatten(0, 1) if argument in self.packed else tensor
            for name, parts in given.items()
            if name != self.text
            for argument, tensor in parts.items()
        }
        text = self._without(self._text(given), [name for name in self.tokens if name not in given])
        ids = text[self.ids]
        fixed = {name: ids.new_tensor(list(row)).expand(ids.shape[0], -1) for name, row in self.fixed.items()}
        return text | others | fixed

    def _text(self, given: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        parts = dict(given.get(self.text, {}))
        if not parts:
            if self.prompt is None:
                raise ModalityError(
                    f"{self.text!r} is missing, and a language model needs a prompt: give one that stands in for it, "
                    "with the placeholders of the other modalities: LanguageModelCall(..., prompt=[...])"
                )
            first = next(tensor for others in given.values() for tensor in others.values())
            parts = {self.ids: torch.tensor(list(self.prompt), device=first.device).expand(first.shape[0], -1)}
        ids = parts[self.ids] = parts.pop(self.text) if self.ids not in parts else parts[self.ids]
        parts.setdefault(self.mask, torch.ones_like(ids))
        for argument, numbers in self.types.items():
            kinds = torch.zeros_like(ids)
            for token, number in numbers.items():
                kinds = kinds.masked_fill(ids == token, number)
            parts[argument] = kinds
        return parts

    def _stands(self, ids: Tensor, names: Iterable[str]) -> Tensor:
        """Say which tokens stand for one of the modalities."""
        wanted = [token for name in names for token in self.tokens[name]]
        return torch.isin(ids, torch.tensor(wanted, dtype=ids.dtype, device=ids.device))

    def _without(self, parts: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Take the tokens of some modalities out: padding stands before what is left."""
        shape = parts[self.ids].shape
        keeps = ~self._stands(parts[self.ids], names)
        order = keeps.long().sort(dim=1, stable=True).indices
        kept = keeps.gather(1, order)
        first = int(kept.any(0).long().argmax()) if self.trim else min(shape[1] - self.length, 0)
        for argument, values in parts.items():
            if values.shape == shape:
                empty = self.pad if argument == self.ids else 0
                left = values.gather(1, order).masked_fill(~kept, empty)
                parts[argument] = nn.functional.pad(left, (-first, 0), value=empty)
        return parts


def _parts(name: str, value: Any) -> Mapping[str, Tensor]:
    return value if isinstance(value, Mapping) else {name: value}


def _takes(network: nn.Module, argument: str) -> bool:
    parameters = inspect.signature(network.forward).parameters
    return argument in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
