"""The known checkpoints' networks: built at full size on the meta device, counted and compared with published names."""

import inspect
from collections.abc import Iterator
from functools import cache

import pytest
from torch import nn
from transformers import PretrainedConfig

from services.checkpoint import Checkpoint, Component
from services.weights.completeness import list_faults
from services.weights.headers import Header
from services.weights.networks import build_network, find_class, list_shapes, rename_tensors
from tests.real.published import FOLDER, TENSORS, Shapes, list_components, list_networks, read_tensors

COMPONENTS = list_components()
NETWORKS = list_networks()
PARTS = ("text_config", "vision_config")
"""Arguments of transformers' configurations that are configurations themselves."""

each_component = pytest.mark.parametrize(
    ("checkpoint", "component"), COMPONENTS, ids=[f"{c.repository}:{part.name}" for c, part in COMPONENTS]
)
each_network = pytest.mark.parametrize("name", NETWORKS)


def list_arguments(component: Component) -> set[str]:
    """Return the names of all arguments that decide what the network is; `NAME.FIELD` for those of a part."""
    network = find_class(component)
    if component.library != "transformers":
        return set(inspect.signature(network.__init__).parameters) - {"self"}
    return set(list_fields(network.config_class(**component.config)))


def list_fields(config: PretrainedConfig) -> Iterator[str]:
    """Yield the fields of a configuration of transformers that are its own, and those of its parts."""
    for name, field in inspect.signature(type(config).__init__).parameters.items():
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            yield from (f"{name}.{own}" for own in ("model_type", *list_fields(part)))
        elif field.kind is field.KEYWORD_ONLY:
            yield name


def list_stated(component: Component) -> set[str]:
    """Return the names of the arguments that the data state, as in `list_arguments`."""
    stated: set[str] = set()
    for name, value in component.config.items():
        nested = name in PARTS and isinstance(value, dict)
        stated |= {f"{name}.{own}" for own in value} if nested and isinstance(value, dict) else {name}
    return stated


@cache
def built(name: str) -> nn.Module:
    """Return the network of a file in `tensors/`."""
    return build_network(NETWORKS[name])


def list_differences(network: nn.Module, published: Shapes) -> list[str]:
    """Return a sentence for each tensor in which a published list and a network differ."""
    unknown = rename_tensors(network, published).values() - list_shapes(network).keys()
    faults = list_faults(network, {name: Header("BF16", shape) for name, shape in published.items()})
    return faults + [f"{name} is not of the network" for name in sorted(unknown)]


@each_component
def test_every_argument_is_stated(checkpoint: Checkpoint, component: Component) -> None:
    stated, possible = list_stated(component), list_arguments(component)
    unstated, unknown = sorted(possible - stated), sorted(stated - possible)
    assert not unstated, f"{checkpoint.repository}: {component.name} does not state {unstated}"
    assert not unknown, f"{checkpoint.repository}: {component.name} states {unknown}, which its class does not have"


@each_component
def test_networks_have_the_published_size(checkpoint: Checkpoint, component: Component) -> None:
    counted = sum(parameter.numel() for parameter in build_network(component).parameters())
    assert counted == component.parameters, f"{checkpoint.repository}: {component.name}"


@each_component
def test_networks_have_the_published_tensors(checkpoint: Checkpoint, component: Component) -> None:
    published = read_tensors(TENSORS[checkpoint.repository, component.name])
    faults = list_differences(build_network(component), published)
    assert not faults, "\n".join(faults)


def test_every_list_is_used() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(TENSORS.values()) == set(NETWORKS)


@each_network
def test_a_removed_tensor_is_named(name: str) -> None:
    for tensor in pick(name):
        published = {other: shape for other, shape in read_tensors(name).items() if other != tensor}
        (fault,) = list_differences(built(name), published)
        assert fault == f"{own_name(name, tensor)} is missing"


@each_network
def test_a_changed_shape_is_named(name: str) -> None:
    for tensor in pick(name):
        published = read_tensors(name) | {tensor: (*read_tensors(name)[tensor], 7)}
        (fault,) = list_differences(built(name), published)
        assert fault.startswith(f"{own_name(name, tensor)} has the shape [")


@each_network
def test_a_renamed_prefix_is_named(name: str) -> None:
    for tensor in pick(name):
        prefix = tensor.rpartition(".")[0]
        changed = {
            f"wrong.{other}" if other.startswith(prefix) else other: shape
            for other, shape in read_tensors(name).items()
        }
        faults = list_differences(built(name), changed)
        assert f"{own_name(name, tensor)} is missing" in faults
        assert any(fault.endswith(f"{tensor} is not of the network") for fault in faults)


def pick(name: str) -> list[str]:
    """Return three tensors of a list: the first, one from the middle, and the last."""
    tensors = list(read_tensors(name))
    return [tensors[0], tensors[len(tensors) // 2], tensors[-1]]


def own_name(name: str, tensor: str) -> str:
    return rename_tensors(built(name), [tensor])[tensor]
