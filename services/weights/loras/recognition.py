"""Which module each key of a LoRA file changes, and why a file with unknown keys is refused."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from services.weights.loras.adaptation import Target
from services.weights.loras.bases import FAMILIES, STATES, name_base, name_stated, name_target, name_width
from services.weights.loras.errors import LoraError
from services.weights.loras.keys import Key, parse_key, quote
from services.weights.loras.names import Module, Names

Found = tuple[Key, str, Module]
"""A key, the file's prefix and the module."""


def recognise_keys(
    keys: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
    names: Names,
    target: Target,
) -> list[Found]:
    """Return the module of each key.

    Raises:
        LoraError: a key is not one of a LoRA of this transformer, or has another prefix than the others.
    """
    found, unknown = list[Found](), list[str]()
    for text in keys:
        key = parse_key(text)
        place = names.find(key.stem) if key else None
        if key and place:
            found.append((key, *place))
        else:
            unknown.append(text)
    if unknown:
        raise LoraError(_explain_unknown(unknown, keys, shapes, target))
    _check_base(found, shapes, metadata, target)
    _check_prefix(found)
    return found


def _explain_unknown(
    unknown: Sequence[str], keys: Sequence[str], shapes: Mapping[str, tuple[int, ...]], target: Target
) -> str:
    ours = name_target(target)
    if any(key.startswith("transformer_2.") for key in unknown):
        return f"has changes for a second transformer ({quote(unknown[0])}): each expert needs a file of its own"
    base = name_base(unknown, shapes)
    if base and base != FAMILIES[target.architecture]:
        return f"is a LoRA of {base}, as {quote(unknown[0])} shows; this model is {ours}"
    if not any(parse_key(key) for key in keys):
        return f"is not a LoRA: it has no low-rank matrices, but e.g. {quote(unknown[0])}"
    return f"has {quote(unknown[0])}, which is not part of a LoRA of this model, {ours}"


def _check_base(
    found: Sequence[Found], shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], target: Target
) -> None:
    """Raise LoraError if names fit, but the sizes or the metadata are those of another model."""
    ours = name_target(target)
    stated = name_stated(metadata)
    if stated and stated != FAMILIES[target.architecture]:
        raise LoraError(f"is a LoRA of {stated}, as its metadata says; this model is {ours}")
    states = {module: target.layers[module][0] for module in _list_state_layers(target)}
    for key, _, module in found:
        width = states.get(module.parts[0].module)
        shape = shapes[key.text]
        if key.kind == "down" and width and len(shape) == 2 and shape[1] != width:
            base = name_width(target.architecture, shape[1])
            known = f"is a LoRA of {base}; this model is {ours}" if base else f"is a LoRA of another size of {ours}"
            raise LoraError(f"{known}: {quote(key.text)} has {shape[1]} inputs, the model's layer {width}")


def _list_state_layers(target: Target) -> Iterator[str]:
    """Yield the layers whose inputs are the transformer's states: the queries of all blocks."""
    first = STATES[target.architecture]
    head, tail = first.split(".0.", 1)
    yield from (name for name in target.layers if name.startswith(f"{head}.") and name.endswith(f".{tail}"))


def _check_prefix(found: Sequence[Found]) -> None:
    prefixes = Counter(prefix for _, prefix, _ in found)
    usual = prefixes.most_common(1)[0][0]
    for key, prefix, _ in found:
        if prefix != usual:
            raise LoraError(f"has {quote(key.text)}, while its other keys begin with {usual or 'the name of a layer'}")
