"""torch's MultiheadAttention with its four projections given from outside; it never calls forwards of its own that could be hooked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Project = Callable[[str, Tensor], Tensor]  # ("q" | "k" | "v" | "out", input) -> projection


def unsupported(module: nn.MultiheadAttention) -> str | None:
    """Say what of an attention layer this file does not compute; None for nothing."""
    if not module._qkv_same_embed_dim:
        return "its key and value widths differ from the query's"
    if module.bias_k is not None or module.add_zero_attn:
        return "it adds keys of its own"
    return None


def attend(
    module: nn.MultiheadAttention, project: Project, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return what ``module(query, key, value, ...)`` returns: the output, and the attention weights where they are asked for."""
    single = query.dim() == 2
    if single:
        query, key, value = (t.unsqueeze(0 if module.batch_first else 1) for t in (query, key, value))
    q, k, v = (_split(module, project(n, t)) for n, t in (("q", query), ("k", key), ("v", value)))
    mask = _mask(attn_mask, key_padding_mask, q)
    weights = None
    if need_weights:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        mixed = F.dropout(weights, module.dropout, module.training) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, module.dropout if module.training else 0.0)
    joined = mixed.transpose(1, 2).flatten(2)  # (batch, length, embedding)
    out = project("out", joined if module.batch_first else joined.transpose(0, 1))
    if weights is not None and average_attn_weights:
        weights = weights.mean(1)
    if single:
        out = out.squeeze(0 if module.batch_first else 1)
        weights = None if weights is None else weights.squeeze(0)
    return out, weights


def _split(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Return (batch, heads, length, width of a head)."""
    x = x if module.batch_first else x.transpose(0, 1)
    heads: Tensor = x.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)
    return heads


def _mask(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """Return both masks as one, to be added to the scores."""
    total = None if attn_mask is None else _additive(attn_mask, q.dtype)
    if total is not None and total.dim() == 3:  # (batch · heads, target, source)
        total = total.unflatten(0, (-1, q.shape[1]))
    if padding is not None:
        rows = _additive(padding.reshape(-1, padding.shape[-1]), q.dtype)[:, None, None, :]
        total = rows if total is None else total + rows
    return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def bind_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by the names that MultiheadAttention.forward gives them."""
    names = (
        "query",
        "key",
        "value",
        "key_padding_mask",
        "need_weights",
        "attn_mask",
        "average_attn_weights",
        "is_causal",
    )
    return {**dict(zip(names, args)), **kwargs}
