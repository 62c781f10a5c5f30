"""Attention as it is trained here: torch's own is slow in its backward on a CPU, at these lengths."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor


def plain(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    """Scaled dot-product attention on (batch, tokens, heads, channels), as two products of matrices."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -float("inf"))
            if attn_mask.dtype.is_floating_point is False
            else scores + attn_mask
        )
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)


@contextmanager
def plainly(module: ModuleType) -> Iterator[None]:
    """Let one of diffusers' modules of models use `plain` within."""
    stock = module.dispatch_attention_fn
    module.dispatch_attention_fn = plain
    try:
        yield
    finally:
        module.dispatch_attention_fn = stock
