"""Counts what a function computes on the meta device, and the memory that it holds at most, with fused attention."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Measured(NamedTuple):
    """Result of a measurement."""

    flop: float
    """Floating-point operations: two for each multiplication and addition, as everywhere in the literature."""
    peak_bytes: int
    """Largest sum of the sizes of tensors that the function made and that were alive together."""


class _FusedAttention(TorchFunctionMode):
    """Attention without its matrix of scores, as all kernels compute it; counts its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0.0

    def __torch_function__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = _find_inputs(*args, **(kwargs or {}))
        *batch, rows, width = query.shape
        self.flop += 2.0 * math.prod(batch) * rows * key.shape[-2] * (width + value.shape[-1])
        return query.new_empty(*batch, rows, value.shape[-1])


def _find_inputs(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, ...]:
    return query, key, value


class _LiveBytes(TorchDispatchMode):
    """Sums the storages that are made inside it and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._add(tensor, counts=False)
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor, counts=True)
        return made

    def _add(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes() if counts else 0  # a weight, or an argument of the function
            self._live += self._sizes[key]
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._live -= self._sizes.pop(key, 0)


def measure(function: Callable[[], Any]) -> Measured:
    """Run a function on the meta device and measure it."""
    with FlopCounterMode(display=False) as counter, _LiveBytes() as live, _FusedAttention() as attention:
        kept = function()
    del kept
    return Measured(counter.get_total_flops() + attention.flop, live.peak)
