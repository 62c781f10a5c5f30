"""The header and the tensors of a LoRA file."""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.weights.loras.errors import LoraError
from services.weights.loras.keys import quote

DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Data types that can be read, as safetensors names them."""


class _Slice(Protocol):
    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> object: ...


class _Open(Protocol):
    def keys(self) -> list[str]: ...
    def metadata(self) -> dict[str, str] | None: ...
    def get_slice(self, name: str) -> _Slice: ...
    def get_tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LoraFile:
    """An open LoRA file. Only its header has been read."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    _content: _Open

    def read(self, key: str) -> Tensor:
        """Return a tensor in float32. Raises LoraError if its type is unknown or a value is not finite."""
        kind = str(self._content.get_slice(key).get_dtype())
        if kind not in DTYPES:
            raise LoraError(f"has {quote(key)} of the data type {kind}; supported: {', '.join(sorted(DTYPES))}")
        tensor = self._content.get_tensor(key).to(torch.float32)
        if not tensor.isfinite().all():
            raise LoraError(f"has {quote(key)} with values that are not finite")
        return tensor


@contextmanager
def open_lora(path: Path) -> Generator[LoraFile]:
    """Open a safetensors file. Raises LoraError if it is none, and OSError if it cannot be read."""
    try:
        with cast("AbstractContextManager[_Open]", safe_open(path, framework="pt")) as content:
            keys = content.keys()
            shapes = {key: tuple(content.get_slice(key).get_shape()) for key in keys}
            yield LoraFile(shapes, content.metadata() or {}, content)
    except SafetensorError as error:
        raise LoraError(f"is not a safetensors file: {quote(str(error))}") from error
