"""Names, shapes and data types of the tensors in weight files, read from their headers alone, and what is wrong there.

Source: https://huggingface.co/docs/safetensors/index#format
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from services.errors import ConfigError

STEMS = ("diffusion_pytorch_model", "model")
"""Names of weight files of diffusers and of transformers, without their endings."""
LARGEST_HEADER = 100_000_000
"""Largest header of a safetensors file in bytes, from its specification."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Data type of safetensors → bits of an element."""


class Header(NamedTuple):
    """What a file says of a tensor."""

    dtype: str
    """Data type of safetensors, e.g. `BF16`."""
    shape: tuple[int, ...]


class _Entry(BaseModel):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(BaseModel):
    weight_map: dict[str, str]


_OBJECT = TypeAdapter(dict[str, object])


def compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Header]) -> list[str]:
    """Return a sentence for each expected tensor that is missing or has another shape; others are not looked at."""
    faults: list[str] = []
    for name, shape in expected.items():
        header = found.get(name)
        if header is None:
            faults.append(f"{name} is missing")
        elif header.shape != shape:
            faults.append(f"{name} has the shape {list(header.shape)} instead of {list(shape)}")
    return faults


def find_weight_files(folder: Path, variant: str | None = None) -> dict[Path, tuple[str, ...]]:
    """Return the safetensors files of a component → the tensors that its index says they have, none without an index.

    Args:
        folder: folder of the component.
        variant: variant of the files; those without a variant count where it has none, as in diffusers.

    Returns:
        The files; empty if the component has no safetensors files.

    Raises:
        ConfigError: the index is broken, or names a file that does not exist.
    """
    for infix in (f".{variant}", "") if variant else ("",):
        for stem in STEMS:
            index = folder / f"{stem}.safetensors.index{infix}.json"
            if index.is_file():
                return _read_index(index)
            file = folder / f"{stem}{infix}.safetensors"
            if file.is_file():
                return {file: ()}
    return {}


def read_headers(folder: Path, variant: str | None = None) -> dict[str, Header]:
    """Return the name of each tensor of a component → its header; see `find_weight_files`.

    Raises:
        ConfigError: a file is missing, truncated or broken; the message names the file and, if it is known, the tensor.
    """
    found: dict[str, Header] = {}
    for file, indexed in find_weight_files(folder, variant).items():
        headers = read_header(file)
        for name in indexed:
            if name not in headers:
                raise _refuse(file, f"{name} is missing, which the index says is there")
        found |= {name: headers[name] for name in indexed} if indexed else headers
    return found


def read_header(file: Path) -> dict[str, Header]:
    """Return the name of each tensor in a safetensors file → its header. Raises ConfigError as `read_headers` does."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= LARGEST_HEADER else b""
        size = file.stat().st_size
    except OSError as error:
        raise _refuse(file, f"cannot be read ({error.strerror})") from error
    if len(text) != length:
        raise _refuse(file, f"is no safetensors file: its header should have {length} bytes, and it has {size} in all")
    return parse_header(text, size - 8 - length, file)


def parse_header(text: bytes, data_bytes: int, file: Path) -> dict[str, Header]:
    """Return the name of each tensor → its header.

    Args:
        text: the JSON text of a safetensors header.
        data_bytes: size of the data that follow it.
        file: the file, for messages.

    Raises:
        ConfigError: the header is broken, or the data are shorter than it says.
    """
    try:
        entries = _OBJECT.validate_json(text)
    except ValidationError as error:
        raise _refuse(file, "is no safetensors file: its header is no JSON object") from error
    return {
        name: _check_entry(name, entry, data_bytes, file) for name, entry in entries.items() if name != "__metadata__"
    }


def _check_entry(name: str, value: object, data_bytes: int, file: Path) -> Header:
    try:
        entry = _Entry.model_validate(value)
    except ValidationError as error:
        raise _refuse(file, f"{name} has a broken entry in the header") from error
    begin, end = entry.data_offsets
    bits = BITS.get(entry.dtype)
    if bits is None:
        raise _refuse(file, f"{name} has the unknown data type {entry.dtype}")
    if min(entry.shape, default=0) < 0 or not 0 <= begin <= end:
        raise _refuse(file, f"{name} has a negative size")
    if (end - begin) * 8 != math.prod(entry.shape) * bits:
        raise _refuse(
            file, f"{name} has {end - begin} bytes, which is not the size of {list(entry.shape)} in {entry.dtype}"
        )
    if end > data_bytes:
        raise _refuse(file, f"{name} is cut off: it ends at byte {end} of {data_bytes}")
    return Header(entry.dtype, entry.shape)


def read_weight_map(text: bytes) -> dict[str, str]:
    """Return the name of each tensor in an index of weights → its file. Raises ValueError if it is none."""
    return _Index.model_validate_json(text).weight_map


def _read_index(index: Path) -> dict[Path, tuple[str, ...]]:
    try:
        places = read_weight_map(index.read_bytes())
    except (OSError, ValueError) as error:
        raise _refuse(index, "is no index of weights") from error
    files: dict[Path, list[str]] = {}
    for name, file in places.items():
        files.setdefault(index.parent / Path(file).name, []).append(name)
    for file, names in files.items():
        if not file.is_file():
            raise _refuse(file, f"is missing, with {names[0]} and {len(names) - 1} other tensors")
    return {file: tuple(names) for file, names in files.items()}


def _refuse(file: Path, what: str) -> ConfigError:
    return ConfigError(f"weights: {file.parent.name}/{file.name}: {what}", param="weights")
