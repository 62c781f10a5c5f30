"""Attention for training on a CPU, where the backward pass of torch's own kernel is slow at these sequence lengths."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    """Compute scaled dot-product attention by two matrix products.

    Args:
        query: (batch, tokens, heads, channels), as `key` and `value`.
        key: of the tokens attended to.
        value: of the tokens attended to.
        attn_mask: boolean (False hides a token), or a float tensor added to the scores.

    Returns:
        (batch, tokens, heads, channels).
    """
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
def use_plain_attention(module: ModuleType) -> Iterator[None]:
    """Make a diffusers model module use `attend` for attention inside the `with` block."""
    stock = module.dispatch_attention_fn
    module.dispatch_attention_fn = attend
    try:
        yield
    finally:
        module.dispatch_attention_fn = stock
