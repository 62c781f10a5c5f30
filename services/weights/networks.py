"""The networks of known checkpoints, built on torch's meta device, where tensors have shapes but no values."""

import importlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightRenaming,
    rename_source_key,  # pyright: ignore[reportUnknownVariableType]
)

from services.checkpoint import Component


def find_class(component: Component) -> Any:
    """Return the class of a network: `CLASS` of its library or, of this project, `MODULE:CLASS`."""
    if component.library == "reelgraph":
        module, name = component.class_name.split(":")
    else:
        module, name = component.library, component.class_name
    return getattr(importlib.import_module(module), name)


def build_network(component: Component, dtype: torch.dtype | None = None) -> nn.Module:
    """Build a network on the meta device: at full size it takes no memory.

    Args:
        component: the network.
        dtype: dtype of its parameters and buffers; by default float32.

    Raises:
        TypeError: the class does not take one of the arguments in `config`, or needs another.
    """
    network = find_class(component)
    with torch.device("meta"):
        if component.library == "transformers":
            made = network(network.config_class(**component.config))
        else:
            made = network(**component.config)
    return made.eval().requires_grad_(False).to("meta", dtype)


def list_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the name of each tensor that a network saves → its shape."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def rename_tensors(network: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the name of each tensor in a file → the network's own name of it.

    Published files often have the names of an older version, which the library renames when it loads them. Names that
    it does not know stay as they are.
    """
    if isinstance(network, ModelMixin):
        known: Any = network
        olds = OrderedDict((name, name) for name in names)
        known._fix_state_dict_keys_on_load(olds)  # renames the keys, and leaves the values
        return {old: new for new, old in olds.items()}
    if not isinstance(network, PreTrainedModel):
        return {name: name for name in names}
    own = network.state_dict()
    steps = get_model_conversion_mapping(network)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    return {name: rename_source_key(name, renamings, [], network.base_model_prefix, own)[0] for name in names}


def list_tied(network: nn.Module) -> dict[str, str]:
    """Return the name of each tensor that is another one's alias → that one's name. A file needs one of the two."""
    known: Any = network
    return dict(known.all_tied_weights_keys) if isinstance(network, PreTrainedModel) else {}
