"""The LoRAs of a pipeline: those of the deployment for every request, and those of each request in addition."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from services.errors import ConfigError, InvalidParameter, ModelFailed
from services.limits import check_limit
from services.weights.loras.adaptation import Architecture
from services.weights.loras.files import LORA_NOTICE, report_loras
from services.weights.loras.library import PARAM, FileVersion, Library, Reading
from services.weights.loras.settings import FixedLora, LoraSettings
from services.weights.loras.slots import Slot, Slots
from services.weights.request import Lora


class Loras:
    """The LoRAs of a pipeline with one transformer or several experts.

    Args:
        settings: of the deployment.
        home: REELGRAPH_HOME, the folder of downloads.
        pipe: the pipeline, before it is placed on its device or compiled.
        architecture: of its transformers.
        transformers: name of each transformer that a LoRA may select → the transformer.

    Raises:
        ConfigError: a LoRA of the deployment cannot be used, or the licence of a repository is not accepted.
    """

    def __init__(
        self,
        settings: LoraSettings[Any],
        home: Path,
        pipe: Any,
        architecture: Architecture,
        transformers: Mapping[str, nn.Module],
    ) -> None:
        self._settings = settings
        self._library = Library(settings, home)
        self._networks = {name: Slots(pipe, one, architecture, settings) for name, one in transformers.items()}
        self._fixed: list[Slot] = []
        self.loaded: tuple[str, ...] = ()
        """Names of the LoRAs in memory that requests have used, least recently used first. Replaced as a whole, because
        other threads read it."""
        for lora in settings.loras:
            if lora.weight != 0:
                self._fix(lora)

    def check(self, wanted: Sequence[Lora]) -> None:
        """Check the LoRAs of a request without reading their files.

        Raises:
            InvalidParameter: a LoRA does not exist, or is for an expert that this checkpoint lacks.
            LimitExceeded: there are too many, or a file is too large.
        """
        check_limit(PARAM, len(wanted), self._settings.max_loras, "LoRAs")
        for lora in wanted:
            self._library.check(lora.name)
            self._select_networks(lora.name, lora.expert_name)

    @contextmanager
    def activate(self, wanted: Sequence[Lora]) -> Generator[dict[str, str]]:
        """Activate the LoRAs of the deployment and of a request within the block, and no LoRA after it.

        The block receives facts for the job's record: the SHA-256 of each active LoRA's file, and a notice of the parts
        that are not applied. LoRAs of weight 0 are skipped, so that the result is the same as without them.

        Raises:
            InvalidParameter: a LoRA does not exist or does not fit this transformer.
            LimitExceeded: a LoRA's file or rank is too large.
            ModelFailed: a LoRA could not be downloaded.
        """
        acting = [lora for lora in wanted if lora.weight != 0]
        try:
            chosen = self._load(acting)
            for name, network in self._networks.items():
                network.activate(chosen[name])
            slots = [slot for pairs in chosen.values() for slot, _ in pairs]
            yield report_slots([*self._fixed, *slots])
        finally:
            for network in self._networks.values():
                network.deactivate()

    def _load(self, acting: Sequence[Lora]) -> dict[str, list[tuple[Slot, float]]]:
        """Load the LoRAs of a request. Return the slots and weights of each transformer, by its name."""
        uses = [(lora, self._select_networks(lora.name, lora.expert_name)) for lora in acting]
        rivals = {name: {lora.name for lora, names in uses if name in names} for name in self._networks}
        chosen: dict[str, list[tuple[Slot, float]]] = {name: [] for name in self._networks}
        for lora, names in uses:
            file = self._library.find(lora.name)
            reading: Reading | None = None
            for name in names:
                network = self._networks[name]
                slot = network.find(file, rivals[name])
                if slot is None:
                    reading = reading or self._library.read(file, network.target)
                    slot = network.load(reading, rivals[name])
                chosen[name].append((slot, lora.weight))
                self.loaded = self._list_loaded()
        return chosen

    def _list_loaded(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for network in self._networks.values() for name in network.names))

    def _select_networks(self, label: str, expert: str) -> list[str]:
        """Return the names of the transformers that use a LoRA. Raises InvalidParameter if there is none."""
        if expert and expert not in self._networks:
            raise InvalidParameter(f"loras: {label}: this checkpoint has no {expert}-noise expert", param=PARAM)
        return [expert] if expert else list(self._networks)

    def _fix(self, lora: FixedLora) -> None:
        """Load a LoRA of the deployment. Raises ConfigError."""
        try:
            file, reading = self._find_fixed(lora), None
            for name in self._select_networks(lora.label, lora.expert_name):
                network = self._networks[name]
                reading = reading or self._library.read(file, network.target)
                self._fixed.append(network.fix(reading, lora.weight))
        except (InvalidParameter, ModelFailed) as error:
            raise ConfigError(error.message, param=PARAM) from error

    def _find_fixed(self, lora: FixedLora) -> FileVersion:
        if lora.name is not None:
            return self._library.find(lora.name)
        return self._library.stamp(lora.label, self._settings.path_of(lora.file or ""))


def report_slots(slots: Iterable[Slot]) -> dict[str, str]:
    """Return facts about LoRAs in use: the SHA-256 of their files, and the parts of them that are not applied."""
    used = {slot.file.label: slot for slot in slots}
    facts = report_loras({label: slot.sha256 for label, slot in used.items()})
    omitted = [f"{label}: {', '.join(slot.omitted)}" for label, slot in used.items() if slot.omitted]
    return {**facts, LORA_NOTICE: f"not applied: {'; '.join(omitted)}"} if omitted else facts
