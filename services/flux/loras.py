"""LoRAs for each request: finding, checking and reading their files, and caching them in memory.

Source: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffusers import FluxPipeline
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from services.errors import ConfigError, InvalidParameter, ModelFailed
from services.flux.request import Lora
from services.flux.settings import FluxSettings, LoraRepository
from services.limits import check_limit
from services.weights.local import check_licence, resolve
from services.weights.loras.files import UnsafeLora, check_lora, hash_lora
from services.weights.weights import Weights

PARAM = "loras"
PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
STUMBLES = (OSError, SafetensorError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, re.error)
"""Errors that diffusers' converters may raise for a file of another kind."""
KEY = re.compile(r"transformer\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """The weights of one LoRA file, checked against the transformer."""

    tensors: dict[str, Tensor]
    """`transformer.LAYER.lora_A.weight` (rank, in) and `transformer.LAYER.lora_B.weight` (out, rank)."""
    alphas: dict[str, float]
    """LoRA alpha by layer; a missing layer's alpha equals its rank."""

    @property
    def layers(self) -> set[str]:
        """Names of the transformer's layers that have LoRA weights."""
        return {match[1] for key in self.tensors if (match := KEY.fullmatch(key))}

    @property
    def rank(self) -> int:
        """Highest rank over the layers."""
        return max(tensor.shape[0] for key, tensor in self.tensors.items() if ".lora_A." in key)

    def levelled(self, rank: int) -> "Adaptation":
        """Return an equivalent with every layer padded to `rank` and scaled to 1, so that only tensors differ."""
        tensors = {}
        for key, tensor in self.tensors.items():
            layer, side = KEY.fullmatch(key).groups()
            if side == "A":
                tensors[key] = functional.pad(tensor, (0, 0, 0, rank - tensor.shape[0]))
            else:
                scale = self.alphas.get(layer, tensor.shape[1]) / tensor.shape[1]
                tensors[key] = functional.pad(tensor * scale, (0, rank - tensor.shape[1]))
        return Adaptation(tensors, {})


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A LoRA's place in memory."""

    adapter: str
    """Name of the adapter in peft."""
    stamp: tuple[int, int]
    """Modification time in nanoseconds and size in bytes of the file as it was read."""
    sha256: str
    """SHA-256 of the file as it was read, in hex."""


class Library:
    """The LoRA files that requests may name."""

    def __init__(self, settings: FluxSettings, home: Path) -> None:
        self._folder = settings.lora_dir
        self._listed = {known.name: known for known in settings.lora_repositories}
        self._max_bytes = settings.max_lora_bytes
        self._home, self._offline = home, settings.weights.offline
        for known in settings.lora_repositories:
            self._check_licence(known)

    def check(self, name: str) -> None:
        """Raise InvalidParameter if the LoRA does not exist, or LimitExceeded if its file is too large."""
        if name not in self._listed:
            self._local(name)

    def find(self, name: str) -> Path:
        """Return the file, downloaded if necessary. Raises as `check` does, and ModelFailed if the download fails."""
        known = self._listed.get(name)
        if known is None:
            return self._local(name)
        path = self._downloaded(known)
        self._check_bytes(name, path)
        return path

    def _local(self, name: str) -> Path:
        wanted = PurePosixPath(name)
        folder, file = self._folder, name if wanted.suffix in PICKLES else f"{name}.safetensors"
        if folder is None:
            raise InvalidParameter(f"loras: there is no {name} here", param=PARAM)
        path = (folder / file).resolve()
        if ".." in wanted.parts:  # even if it resolves inside the folder: each file has one name
            path = Path(file)
        try:
            check_lora(name, path, folder)
        except UnsafeLora as error:
            raise InvalidParameter(f"loras: {error}", param=PARAM) from error
        if not path.is_file():
            raise InvalidParameter(f"loras: there is no {name} here", param=PARAM)
        self._check_bytes(name, path)
        return path

    def _check_bytes(self, name: str, path: Path) -> None:
        check_limit(PARAM, path.stat().st_size, self._max_bytes, f"bytes in {name}")

    def _check_licence(self, known: LoraRepository) -> None:
        """Raise ConfigError if the licence is not accepted; checked at startup, not at the first request."""
        try:
            check_licence(self._weights(known), self._home)
        except ConfigError as error:
            raise ConfigError(f"lora_repositories: {known.name}: {error.message}", param="lora_repositories") from error

    def _weights(self, known: LoraRepository) -> Weights:
        return known.weights.model_copy(update={"offline": self._offline})

    def _downloaded(self, known: LoraRepository) -> Path:
        try:
            path = resolve(self._weights(known), self._home) / known.file
        except ConfigError as error:
            raise ModelFailed(f"loras: {known.name}: {error.message}", param=PARAM) from error
        if not path.is_file():
            raise ModelFailed(f"loras: {known.name}: {known.file} is not in {known.repository}", param=PARAM)
        return path


class Loras:
    """The LoRAs in memory, at most `max_loras`; the least recently used one is replaced."""

    def __init__(self, settings: FluxSettings, home: Path, pipe: FluxPipeline) -> None:
        """Record the layers' shapes; call it before the pipeline is placed on its device or compiled."""
        self._settings = settings
        self._library = Library(settings, home)
        self._pipe = pipe
        self._shapes = {
            name: (layer.in_features, layer.out_features)
            for name, layer in pipe.transformer.named_modules()
            if isinstance(layer, nn.Linear)
        }
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._layers: dict[str, set[str]] = {}
        """Names of the layers with LoRA weights, by peft's adapter name."""
        self.loaded: tuple[str, ...] = ()
        """Names of the loaded LoRAs, least recently used first. Replaced as a whole, because other threads read it."""
        self.check = self._library.check

    @contextmanager
    def on(self, wanted: Sequence[Lora]) -> Iterator[dict[str, str]]:
        """Activate the LoRAs of a request within the block, and no LoRA after it.

        The block receives the name of each active LoRA → SHA-256 of its file.

        LoRAs of weight 0 are skipped, so that the result is the same as without them.

        Raises:
            InvalidParameter: a LoRA does not exist or does not fit this transformer.
            LimitExceeded: a LoRA's file or rank is too large.
            ModelFailed: a LoRA could not be downloaded.
        """
        acting = [lora for lora in wanted if lora.weight != 0]
        try:
            slots = [self._slot(lora.name, acting) for lora in acting]
            if acting:
                self._activate(slots, [lora.weight for lora in acting])
            yield {lora.name: slot.sha256 for lora, slot in zip(acting, slots, strict=True)}
        finally:
            if self._layers:
                self._pipe.transformer.set_adapters([], [])

    def _activate(self, slots: list[Slot], weights: list[float]) -> None:
        adapters = [slot.adapter for slot in slots]
        if not self._settings.compile:
            self._pipe.transformer.set_adapters(adapters, weights)
            return
        # In the order of the slots and with tensor weights, so that a new combination does not cause recompilation.
        weight_of = dict(sorted(zip(adapters, weights, strict=True)))
        for layer in self._pipe.transformer.modules():
            if isinstance(layer, LoraLayer):
                layer.set_adapter(list(weight_of))
                for adapter, weight in weight_of.items():
                    if adapter in layer.scaling:
                        layer.scaling[adapter].fill_(weight)

    def _slot(self, name: str, acting: Sequence[Lora]) -> Slot:
        """Return the LoRA's slot; load it if necessary, replacing a LoRA that this request does not use."""
        path = self._library.find(name)
        file = path.stat()
        stamp = file.st_mtime_ns, file.st_size
        # Compiled code is specific to its slots: with compilation every request uses the first slots.
        places = len(acting) if self._settings.compile else self._settings.max_loras
        # Equal lengths: peft finds an adapter's parameters by substring, so no name may contain another.
        adapters = [f"slot_{index:02}" for index in range(places)]
        slot = self._slots.get(name)
        if slot is None or slot.stamp != stamp or slot.adapter not in adapters:
            adaptation = self._read(name, path)
            self._slots.pop(name, None)
            slot = Slot(self._room(adapters, {lora.name for lora in acting}), stamp, hash_lora(path))
            self._load(slot.adapter, adaptation)
            self._slots[name] = slot
        self._slots.move_to_end(name)
        self.loaded = tuple(self._slots)
        return slot

    def _room(self, adapters: list[str], kept: set[str]) -> str:
        """Return a free one of `adapters`, evicting the least recently used LoRA outside `kept` if necessary."""
        holders = {slot.adapter: name for name, slot in self._slots.items()}
        free = [adapter for adapter in adapters if adapter not in holders]
        if free:
            return free[0]
        oldest = next(adapter for adapter, name in holders.items() if adapter in adapters and name not in kept)
        del self._slots[holders[oldest]]
        self.loaded = tuple(self._slots)
        return oldest

    def _load(self, adapter: str, adaptation: Adaptation) -> None:
        """Load an adaptation into peft as `adapter`, replacing that adapter's previous weights."""
        transformer, layers, rank = self._pipe.transformer, adaptation.layers, self._settings.max_lora_rank
        before = self._layers.pop(adapter, None)
        swap = self._settings.compile and before is not None and before >= layers
        if swap:
            layers = before  # layers without weights in the new LoRA are set to zero
        elif before is not None:
            transformer.delete_adapters(adapter)
        if self._settings.compile:
            adaptation = adaptation.levelled(rank)
            if not swap:
                transformer.enable_lora_hotswap(target_rank=rank, check_compiled="ignore")
        try:
            self._pipe.load_lora_into_transformer(
                adaptation.tensors,
                network_alphas={f"transformer.{layer}.alpha": alpha for layer, alpha in adaptation.alphas.items()},
                transformer=transformer,
                adapter_name=adapter,
                _pipeline=self._pipe,
                hotswap=swap,
                low_cpu_mem_usage=True,
            )
            self._layers[adapter] = layers
        finally:
            if adapter not in self._layers:
                transformer.delete_adapters(adapter)

    def _read(self, name: str, path: Path) -> Adaptation:
        """Read a file in any layout that diffusers supports, and check that it fits the transformer."""
        try:
            tensors, alphas, head = FluxPipeline.lora_state_dict(
                str(path.parent),
                weight_name=path.name,
                use_safetensors=True,
                local_files_only=True,
                return_alphas=True,
                return_lora_metadata=True,
            )
            adaptation = Adaptation(tensors, _alphas(tensors, alphas, head))
        except STUMBLES as error:
            raise InvalidParameter(f"loras: {name} cannot be read as a LoRA of Flux", param=PARAM) from error
        self._check_fit(name, adaptation)
        check_limit(PARAM, adaptation.rank, self._settings.max_lora_rank, f"ranks in {name}")
        return adaptation

    def _check_fit(self, name: str, adaptation: Adaptation) -> None:
        """Raise InvalidParameter unless every tensor belongs to a layer, fits its shape and has its A or B partner.

        For some of these files diffusers would only warn; for others it would permanently widen the transformer or
        overwrite its norms.
        """
        tensors = adaptation.tensors
        for key in tensors:
            match = KEY.fullmatch(key)
            if match is None or match[1] not in self._shapes:
                raise InvalidParameter(
                    f"loras: {name} has {key[:200]}, which does not belong to Flux's transformer", param=PARAM
                )
            down, up = (tensors.get(f"transformer.{match[1]}.lora_{side}.weight") for side in "AB")
            rank = 0 if down is None or down.ndim != 2 else down.shape[0]
            wide, high = self._shapes[match[1]]
            if rank == 0 or up is None or down.shape != (rank, wide) or up.shape != (high, rank):
                raise InvalidParameter(f"loras: {name} does not fit the transformer at {match[1]}", param=PARAM)
        if not tensors:
            raise InvalidParameter(f"loras: {name} has no weights for Flux's transformer", param=PARAM)


def _alphas(tensors: dict[str, Tensor], given: dict[str, Any] | None, head: dict[str, Any] | None) -> dict[str, float]:
    """Return alphas by layer: from the alpha tensors `given` or from diffusers' metadata in the file header `head`."""
    ranks = {
        match[1]: len(tensor) for key, tensor in tensors.items() if (match := KEY.fullmatch(key)) and match[2] == "A"
    }
    if given:
        return {layer: float(given.get(f"transformer.{layer}.alpha", rank)) for layer, rank in ranks.items()}
    own = {key.removeprefix("transformer."): value for key, value in (head or {}).items()}
    if "lora_alpha" not in own:
        return {}
    patterns = own.get("alpha_pattern") or {}
    found = {layer: float(patterns.get(get_pattern_key(patterns, layer), own["lora_alpha"])) for layer in ranks}
    return {
        layer: alpha * math.sqrt(ranks[layer]) if own.get("use_rslora") else alpha for layer, alpha in found.items()
    }
