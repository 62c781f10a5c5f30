"""The LoRAs in memory of one transformer.

Source: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from services.errors import InvalidParameter
from services.weights.loras.adaptation import Architecture, LowRank, Target
from services.weights.loras.library import PARAM, FileVersion, Reading
from services.weights.loras.offsets import Offsets
from services.weights.loras.settings import LoraSettings

REPLACING = ("group", "sequential")
"""Values of `offload` with which the parameters in CPU memory are copies that cannot be changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A LoRA's place in memory."""

    adapter: str
    """Name of the adapter in peft."""
    file: FileVersion
    """The file as it was read."""
    sha256: str
    """SHA-256 of the file, in hex."""
    omitted: tuple[str, ...]
    """Parts of the file that are not applied."""
    offsets: Mapping[str, Tensor]
    """Name of a parameter → the tensor that is added to it."""


class Slots:
    """The slots of a transformer, at most `max_loras`, and one for each fixed LoRA.

    A LoRA that needs a slot replaces the least recently used one.

    Args:
        pipe: the pipeline of the transformer, whose offloading is suspended while a LoRA is loaded.
        transformer: before it is placed on its device or compiled.
        architecture: of the transformer.
        settings: of the deployment.
    """

    def __init__(self, pipe: Any, transformer: Any, architecture: Architecture, settings: LoraSettings[Any]) -> None:
        self._pipe, self._transformer, self._settings = pipe, transformer, settings
        self._offsets = Offsets(transformer)
        self.target = Target(architecture, _list_layers(transformer), _list_parameters(transformer))
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        """Name of a LoRA → its slot, least recently used first."""
        self._layers: dict[str, set[str]] = {}
        """Name of a loaded adapter → names of the layers that have its matrices."""
        self._fixed: list[tuple[Slot, float]] = []
        """Slots of the fixed LoRAs, and their weights."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the LoRAs in memory that requests have used, least recently used first."""
        return tuple(self._slots)

    def fix(self, reading: Reading, weight: float) -> Slot:
        """Load a LoRA that is active for every request. Raises InvalidParameter if it does not suit the settings."""
        slot = self._load(f"base_{len(self._fixed):02}", reading)
        self._fixed.append((slot, weight))
        return slot

    def find(self, file: FileVersion, rivals: Collection[str]) -> Slot | None:
        """Return the slot that holds a file, or None.

        Args:
            file: the file.
            rivals: names of all LoRAs of the request.
        """
        slot = self._slots.get(file.label)
        if slot is None or slot.file != file or slot.adapter not in self._list_adapters(rivals):
            return None
        self._slots.move_to_end(file.label)
        return slot

    def load(self, reading: Reading, rivals: Collection[str]) -> Slot:
        """Load a LoRA, replacing one that the request does not use. Raises InvalidParameter if it does not suit the
        settings.

        Args:
            reading: its file.
            rivals: names of all LoRAs of the request.
        """
        self._check_offsets(reading)
        self._slots.pop(reading.file.label, None)
        slot = self._load(self._make_room(self._list_adapters(rivals), rivals), reading)
        self._slots[reading.file.label] = slot
        return slot

    def activate(self, wanted: Sequence[tuple[Slot, float]]) -> None:
        """Activate the fixed LoRAs and those of a request, each with its weight."""
        acting = [*self._fixed, *wanted]
        if self._layers:
            self._set_adapters({slot.adapter: weight for slot, weight in acting if slot.adapter in self._layers})
        self._offsets.apply((slot.offsets, weight) for slot, weight in acting)

    def deactivate(self) -> None:
        """Turn all LoRAs off."""
        if self._layers:
            self._transformer.set_adapters([], [])
        self._offsets.undo()

    def _list_adapters(self, rivals: Collection[str]) -> list[str]:
        """Return the names of the adapters that a request may use.

        Compiled code is specific to its slots: with compilation every request uses the first slots. The names have
        equal lengths: peft finds an adapter's parameters by substring, so no name may contain another.
        """
        places = len(rivals) if self._settings.compile else self._settings.max_loras
        return [f"slot_{index:02}" for index in range(places)]

    def _make_room(self, adapters: list[str], kept: Collection[str]) -> str:
        """Return a free one of `adapters`, evicting the least recently used LoRA outside `kept` if necessary."""
        holders = {slot.adapter: name for name, slot in self._slots.items()}
        free = [adapter for adapter in adapters if adapter not in holders]
        if free:
            return free[0]
        oldest = next(adapter for adapter, name in holders.items() if adapter in adapters and name not in kept)
        del self._slots[holders[oldest]]
        return oldest

    def _set_adapters(self, weights: Mapping[str, float]) -> None:
        if not self._settings.compile:
            self._transformer.set_adapters(list(weights), list(weights.values()))
            return
        # In the order of the slots and with tensor weights, so that a new combination does not cause recompilation.
        ordered = dict(sorted(weights.items()))
        for layer in self._transformer.modules():
            if isinstance(layer, LoraLayer):
                layer.set_adapter(list(ordered))
                scaling = cast("dict[str, Tensor]", cast("Any", layer).scaling)
                for adapter, weight in ordered.items():
                    if adapter in scaling:
                        scaling[adapter].fill_(weight)

    def _check_offsets(self, reading: Reading) -> None:
        count, offload = len(reading.adaptation.offsets), self._settings.offload
        if count and offload in REPLACING:
            message = f"{reading.file.label} changes {count} biases or norms, which `offload: {offload}` excludes"
            raise InvalidParameter(f"loras: {message}", param=PARAM)

    def _load(self, adapter: str, reading: Reading) -> Slot:
        """Load a LoRA into peft as `adapter`, replacing that adapter's previous matrices."""
        self._check_offsets(reading)
        adaptation = reading.adaptation
        layers, rank = set(adaptation.layers), self._settings.max_lora_rank
        before = self._layers.pop(adapter, None)
        swap = bool(self._settings.compile and before is not None and before >= layers)
        if swap and before is not None:
            layers = before  # layers without matrices in the new LoRA are set to zero
        elif before is not None:
            self._transformer.delete_adapters(adapter)
        changes = dict(adaptation.layers)
        if self._settings.compile:
            changes = {layer: _pad(change, rank) for layer, change in changes.items()}
            if not swap:
                self._transformer.enable_lora_hotswap(target_rank=rank, check_compiled="ignore")
        if changes:
            self._inject(adapter, changes, swap=swap)
            self._layers[adapter] = layers
        return Slot(adapter, reading.file, reading.sha256, adaptation.omitted, adaptation.offsets)

    def _inject(self, adapter: str, changes: Mapping[str, LowRank], *, swap: bool) -> None:
        tensors: dict[str, Tensor] = {}
        for layer, change in changes.items():
            tensors[f"{layer}.lora_A.weight"] = change.down.to(self._transformer.dtype)
            tensors[f"{layer}.lora_B.weight"] = change.up.to(self._transformer.dtype)
        loaded = False
        try:
            self._transformer.load_lora_adapter(
                tensors,
                prefix=None,
                adapter_name=adapter,
                hotswap=swap,
                low_cpu_mem_usage=True,
                _pipeline=self._pipe,
            )
            loaded = True
        finally:
            if not loaded:
                self._transformer.delete_adapters(adapter)


def _pad(change: LowRank, rank: int) -> LowRank:
    """Return an equivalent of rank `rank`, so that only tensors differ between LoRAs."""
    missing = rank - change.rank
    return LowRank(functional.pad(change.down, (0, 0, 0, missing)), functional.pad(change.up, (0, missing)))


def _list_layers(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the name of each linear layer → number of inputs and outputs."""
    layers = cast("Iterable[tuple[str, nn.Module]]", network.named_modules())
    return {name: (layer.in_features, layer.out_features) for name, layer in layers if isinstance(layer, nn.Linear)}


def _list_parameters(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the name of each parameter → its shape."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
