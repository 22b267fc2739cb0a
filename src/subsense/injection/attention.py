"""Multi-head attention with an adapter after each of its four projections.

`nn.MultiheadAttention` reads its projection weights itself, so no hook sees query, key, value or output. While adapters
act, its `forward` is this one: the same arguments, results and arithmetic, with a place for adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.support.torch_private import is_packed

Adapt = Callable[[str, Tensor, Tensor], Tensor]
"""(part, its input, its output) -> adapted output."""


class AdaptedAttention:
    """Be the forward of an `nn.MultiheadAttention` whose projections are adapted.

    Args:
        module: the attention layer; its parameters are read, never changed.
        adapt: called as ``adapt(part, x, y)`` with part ``"query"``, ``"key"``, ``"value"``, ``"output"``.
    """

    def __init__(self, module: nn.MultiheadAttention, adapt: Adapt) -> None:
        self.module, self.adapt = module, adapt

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention.forward` does; see there for shapes."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        q, k, v = (self._project(part, x) for part, x in (("query", query), ("key", key), ("value", value)))
        heads = self._heads(q), *self._extend(k, v)
        mask = self._mask(heads[0], heads[1], key_padding_mask, attn_mask)
        mixed, weights = self._attend(*heads, mask, need_weights)
        merged = self._merge(mixed, query)
        output = self.adapt("output", merged, F.linear(merged, self.module.out_proj.weight, self.module.out_proj.bias))
        return output, self._report(weights, query, average_attn_weights)

    def _project(self, part: str, x: Tensor) -> Tensor:
        module, index = self.module, ("query", "key", "value").index(part)
        rows = slice(index * module.embed_dim, (index + 1) * module.embed_dim)
        separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[index]
        weight = module.in_proj_weight[rows] if is_packed(module) else separate
        bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
        return self.adapt(part, x, F.linear(x, weight, bias))

    def _heads(self, x: Tensor) -> Tensor:
        """(sequence, batch, feature), batch first, or unbatched -> (batch, head, sequence, feature of a head)."""
        batched = x if x.dim() == 3 else x.unsqueeze(0 if self.module.batch_first else 1)
        first = batched if self.module.batch_first else batched.transpose(0, 1)
        heads: Tensor = first.unflatten(2, (self.module.num_heads, -1))
        return heads.transpose(1, 2)

    def _extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Bring keys and values to heads, and append the learned and the zero entry where the layer has them."""
        keys, values = self._heads(k), self._heads(v)
        num_heads, size = self.module.num_heads, self.module.head_dim
        if self.module.bias_k is not None and self.module.bias_v is not None:
            extra = [
                bias.view(1, num_heads, 1, size).expand(len(keys), -1, -1, -1)
                for bias in (self.module.bias_k, self.module.bias_v)
            ]
            keys, values = torch.cat([keys, extra[0]], 2), torch.cat([values, extra[1]], 2)
        if self.module.add_zero_attn:
            keys, values = (F.pad(x, (0, 0, 0, 1)) for x in (keys, values))
        return keys, values

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """Add up both masks, broadcastable to (batch, head, target, source)."""
        masks = []
        if padding is not None:
            padding = padding if padding.dim() == 2 else padding.unsqueeze(0)
            masks.append(_additive(padding, q, k.shape[2])[:, None, None, :])
        if attention is not None:
            wide = _additive(attention, q, k.shape[2])
            masks.append(wide.unflatten(0, (len(q), -1)) if wide.dim() == 3 else wide)
        return sum(masks[1:], masks[0]) if masks else None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.module.dropout if self.module.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, dropout) if dropout else weights
        return weights @ v, weights

    def _merge(self, mixed: Tensor, query: Tensor) -> Tensor:
        merged = mixed.transpose(1, 2).flatten(2)
        merged = merged if self.module.batch_first else merged.transpose(0, 1)
        return merged if query.dim() == 3 else merged.squeeze(0 if self.module.batch_first else 1)

    def _report(self, weights: Tensor | None, query: Tensor, average: bool) -> Tensor | None:
        if weights is None:
            return None
        weights = weights.mean(1) if average else weights
        return weights if query.dim() == 3 else weights.squeeze(0)


def _additive(mask: Tensor, like: Tensor, length: int) -> Tensor:
    """Turn a mask (..., source) into numbers to add, open for entries appended to the source."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
    return F.pad(mask.to(like.dtype), (0, length - mask.shape[-1]))
