"""Reading LoRA files in the layouts of their trainers.

No converter of diffusers is used: those guess the layout, lose alphas and biases, and drop what they do not know.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from services.weights.loras.adaptation import Adaptation, LowRank, Target
from services.weights.loras.changes import Change, check_changes, find_parameter, group_changes, omit_other_channels
from services.weights.loras.errors import LoraError
from services.weights.loras.file import LoraFile, open_lora
from services.weights.loras.keys import name_kind, name_text_part, parse_key
from services.weights.loras.layouts import name_layout
from services.weights.loras.metadata import Scaling, read_scaling
from services.weights.loras.names import Module, Names
from services.weights.loras.recognition import recognise_keys


def read_lora(path: Path, target: Target) -> Adaptation:
    """Read a LoRA file in any known layout, and check that all of it fits the transformer.

    The tensors are float32, with alpha folded in.

    Args:
        path: a safetensors file.
        target: the transformer.

    Raises:
        LoraError: the file is not a LoRA, has an unsupported kind (DoRA, LoKr, LoHa), or is for another model.
        OSError: the file cannot be read.
    """
    with open_lora(path) as file:
        texts = {key: part for key in file.shapes if (part := name_text_part(key))}
        keys = [key for key in file.shapes if key not in texts]
        _refuse_kinds(keys)
        if not keys:
            only = ", ".join(_list_parts(texts.items()))
            raise LoraError(f"changes only {only}, which is not applied" if only else "is empty")
        grouped = group_changes(recognise_keys(keys, file.shapes, file.metadata, Names(target), target))
        changes = list(omit_other_channels(grouped, file.shapes, target))
        check_changes(changes, file.shapes, target)
        here = [change for change in changes if not change.module.lacking]
        lacking = [(change.stem, change.module.lacking) for change in changes if change.module.lacking]
        omitted = _list_parts([*texts.items(), *lacking])
        layers, offsets = _read_changes(file, here, target, read_scaling(path, file.metadata))
    if not layers:
        raise LoraError("has no low-rank changes: whole differences of weights are not supported")
    return Adaptation(name_layout(changes, target), layers, offsets, omitted)


def _refuse_kinds(keys: Iterable[str]) -> None:
    for key in keys:
        if kind := name_kind(key):
            raise LoraError(f"is a {kind}, which is not supported; only LoRA is")


def _list_parts(parts: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return what is not applied, e.g. `CLIP-L (72 layers)`.

    Args:
        parts: key or stem, and the name of its part.
    """
    stems = {(key.stem if (key := parse_key(text)) else text, part) for text, part in parts}
    counts = Counter(part for _, part in stems)
    return tuple(f"{part} ({count} layer{'s' if count > 1 else ''})" for part, count in sorted(counts.items()))


def _read_changes(
    file: LoraFile, changes: Sequence[Change], target: Target, scaling: Scaling
) -> tuple[dict[str, LowRank], dict[str, Tensor]]:
    layers, offsets = dict[str, LowRank](), dict[str, Tensor]()
    for change in changes:
        scale = _find_scale(file, change, scaling)
        if "down" in change.keys:
            down = file.read(change.keys["down"].text)
            up = file.read(change.keys["up"].text) * scale
            if change.module.parts[0].module in target.layers:
                layers.update(_split_low_rank(change.module, down, up))
            else:  # a convolution
                whole = up.flatten(1) @ down.flatten(1)
                offsets.update(_split_offset(target, change.module, whole.reshape(-1, *down.shape[1:]), "weight"))
        for kind, parameter, factor in (
            ("weight_difference", "weight", 1.0),
            ("bias_difference", "bias", 1.0),
            ("up_bias", "bias", scale),
        ):
            if kind in change.keys:
                whole = file.read(change.keys[kind].text) * factor
                for name, offset in _split_offset(target, change.module, whole, parameter).items():
                    offsets[name] = offsets[name] + offset if name in offsets else offset
    return layers, offsets


def _find_scale(file: LoraFile, change: Change, scaling: Scaling) -> float:
    if "down" not in change.keys:
        return 1.0
    rank = change.rank(file.shapes)
    if "alpha" in change.keys:
        return file.read(change.keys["alpha"].text).item() / rank
    return scaling.scale(change.name, rank)


def _split_low_rank(module: Module, down: Tensor, up: Tensor) -> Mapping[str, LowRank]:
    """Return the change of each layer.

    Where a layer uses only some of the ranks, as in files whose fused layers were trained as separate ones, the other
    ranks are left out.
    """
    if len(module.parts) == 1:
        return {module.parts[0].module: LowRank(down, _swap_halves(up) if module.halves_swapped else up)}
    changes = dict[str, LowRank]()
    for part in module.parts:
        rows = up[part.first : part.first + part.outputs]
        used = rows.any(dim=0)
        if not used.any():
            used[0] = True
        changes[part.module] = LowRank(down, rows) if used.all() else LowRank(down[used], rows[:, used])
    return changes


def _split_offset(target: Target, module: Module, whole: Tensor, parameter: str) -> dict[str, Tensor]:
    if module.halves_swapped:
        whole = _swap_halves(whole)
    if len(module.parts) == 1:
        return {find_parameter(target, module.parts[0].module, parameter): whole}
    return {
        find_parameter(target, part.module, parameter): whole[part.first : part.first + part.outputs]
        for part in module.parts
    }


def _swap_halves(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])
