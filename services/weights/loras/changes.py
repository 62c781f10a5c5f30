"""The changes of a LoRA file by module: grouping its keys, and checking shapes before any tensor is read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from services.weights.loras.adaptation import Target
from services.weights.loras.errors import LoraError
from services.weights.loras.keys import Key, Kind, quote
from services.weights.loras.names import Module

Shapes = Mapping[str, tuple[int, ...]]
PATCHES = "patch_embedding"
"""Wan's first layer."""


@dataclass(frozen=True, slots=True)
class Change:
    """The keys of a file that change one module."""

    stem: str
    name: str
    """Name of the module in the file, without the file's prefix."""
    module: Module
    keys: dict[Kind, Key] = field(default_factory=dict["Kind", Key])

    def rank(self, shapes: Shapes) -> int:
        return shapes[self.keys["down"].text][0]


def group_changes(keys: Iterable[tuple[Key, str, Module]]) -> list[Change]:
    """Return the changes of a file by module. Raises LoraError if a module is changed twice.

    Args:
        keys: each key, the file's prefix, and the module.
    """
    changes = dict[str, Change]()
    for key, prefix, module in keys:
        change = changes.setdefault(key.stem, Change(key.stem, key.stem[len(prefix) :], module))
        if key.kind in change.keys:
            raise LoraError(f"has both {quote(change.keys[key.kind].text)} and {quote(key.text)}")
        change.keys[key.kind] = key
    _check_overlap(changes.values())
    return list(changes.values())


def omit_other_channels(changes: Iterable[Change], shapes: Shapes, target: Target) -> Iterator[Change]:
    """Yield the changes; those of a patch embedding with another number of channels are marked as lacking.

    Distilled LoRAs of Wan's text-to-video form are used with its image-to-video form, which has more channels, and
    the other way round: the rest of the transformer is the same.
    """
    weight = list(target.parameters.get(f"{PATCHES}.weight", ()))
    for change in changes:
        key = change.keys.get("weight_difference", change.keys.get("down"))
        shape = list(shapes[key.text]) if key else []
        patches = change.module.parts[0].module == PATCHES and len(shape) > 1 and shape[2:] == weight[2:]
        if patches and shape[1] != weight[1]:
            lacking = f"patch embedding of {shape[1]} channels instead of {weight[1]}"
            yield replace(change, module=replace(change.module, lacking=lacking))
        else:
            yield change


def _check_overlap(changes: Iterable[Change]) -> None:
    owners = dict[str, str]()
    for change in changes:
        for part in change.module.parts:
            owner = owners.setdefault(part.module, change.stem)
            if owner != change.stem:
                raise LoraError(f"changes {part.module} twice: {quote(owner)} and {quote(change.stem)}")


def check_changes(changes: Iterable[Change], shapes: Shapes, target: Target) -> None:
    """Raise LoraError if a key lacks its partner or does not fit the transformer.

    Modules that the checkpoint lacks are checked for their partners alone.
    """
    low_rank = [change for change in changes if {"down", "up"} & change.keys.keys()]
    with_alpha = any("alpha" in change.keys for change in low_rank)
    for change in changes:
        _check_partners(change, with_alpha)
        if "down" in change.keys:
            _check_rank(change, shapes)
        if not change.module.lacking:
            _check_fit(change, shapes, target)


def _check_partners(change: Change, with_alpha: bool) -> None:
    keys = change.keys
    for kind, other in (("down", "up"), ("up", "down")):
        if kind in keys and (other not in keys or keys[other].text != keys[kind].find_partner()):
            raise LoraError(f"lacks {quote(keys[kind].find_partner())}, the partner of {quote(keys[kind].text)}")
    for kind in ("alpha", "up_bias"):
        if kind in keys and "down" not in keys:
            raise LoraError(f"has {quote(keys[kind].text)}, but no matrices for it")
    if with_alpha and "down" in keys and "alpha" not in keys:
        raise LoraError(f"lacks {quote(change.stem)}.alpha, which its other layers have")


def _check_rank(change: Change, shapes: Shapes) -> None:
    down, up = (shapes[change.keys[kind].text] for kind in ("down", "up"))
    if len(down) < 2 or len(up) != len(down) or down[0] < 1 or up[1:] != (down[0], *(1,) * (len(up) - 2)):
        raise LoraError(
            f"has matrices of the shapes {down} and {up} at {quote(change.stem)}, which are not of one rank"
        )
    if "alpha" in change.keys and prod(shapes[change.keys["alpha"].text]) != 1:
        raise LoraError(f"has {quote(change.keys['alpha'].text)} that is not one number")


def _check_fit(change: Change, shapes: Shapes, target: Target) -> None:
    module, keys = change.module, change.keys
    weight = find_shape(target, module, "weight")
    expected: dict[Kind, tuple[int, ...] | None] = {
        "weight_difference": weight,
        "bias_difference": find_shape(target, module, "bias"),
        "up_bias": find_shape(target, module, "bias"),
    }
    if "down" in keys:
        if weight is None or len(weight) < 2:
            raise LoraError(f"has {quote(keys['down'].text)}, but that module is not a linear layer")
        rank = change.rank(shapes)
        expected["down"] = (rank, *weight[1:])
        expected["up"] = (module.outputs, rank, *(1,) * (len(weight) - 2))
    for kind, shape in expected.items():
        if kind not in keys:
            continue
        found = shapes[keys[kind].text]
        if shape is None:
            raise LoraError(f"has {quote(keys[kind].text)}, but that module has no bias")
        if found != shape:
            raise LoraError(f"has {quote(keys[kind].text)} of shape {found}; it must be {shape} for this model")


def find_shape(target: Target, module: Module, parameter: str) -> tuple[int, ...] | None:
    """Return the shape of a weight or bias in the file's module; None if the transformer has no such parameter."""
    shapes = [target.parameters.get(find_parameter(target, part.module, parameter)) for part in module.parts]
    if any(shape is None for shape in shapes):
        return None
    first = shapes[0] or ()
    return first if len(shapes) == 1 else (module.outputs, *first[1:])


def find_parameter(target: Target, module: str, parameter: str) -> str:
    """Return the name of a module's weight or bias; a parameter that belongs to no module is its own weight."""
    return module if parameter == "weight" and module in target.parameters else f"{module}.{parameter}"
