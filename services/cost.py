"""What a request costs: forward passes, floating-point operations and memory of activations, computed from a
checkpoint's published configuration, without torch.

Attention counts as 4 · n² · d operations and needs no memory for its scores, as in all fused kernels. Operations count
two for each multiplication and addition. The coefficients of convolutional networks were measured on networks without
values, at their published widths, and grow with the square of the width; tests measure them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from services.checkpoint import Checkpoint, Component
from services.errors import LimitExceeded

PETA, TERA, GIGA = 1e15, 1e12, 1e9
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of an element."""


Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Job(Generic[Request]):
    """A request whose size is known."""

    request: Request
    area: int
    """Number of pixels of a frame or picture that the model samples."""
    pictures: int = 1
    """Number of pictures that the model sees."""
    face: bool = False
    """Whether the request has a face."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The passes of a request through one network."""

    network: str
    """Name of the component, e.g. `transformer`."""
    passes: int
    flop: float
    """Floating-point operations of one pass."""
    activation_bytes: float
    """Largest memory of a pass beside the weights."""
    streams: bool = False
    """Whether each pass reads all weights for few operations, so that memory bandwidth limits it: a token of text."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a request."""

    phases: tuple[Phase, ...]
    main: str
    """Network whose passes are counted: the one that denoises."""
    work: str
    """What the passes work on, e.g. `1280x720 pixels and 81 frames`."""
    precision: Mapping[str, str] = field(default_factory=dict[str, str])
    """Component → data type of its weights."""
    resident: Mapping[str, float] = field(default_factory=dict[str, float])
    """Networks beside those of the checkpoint, which are always on the device → bytes."""

    @property
    def passes(self) -> int:
        return sum(phase.passes for phase in self.phases if phase.network == self.main)

    @property
    def flop(self) -> float:
        return sum(phase.passes * phase.flop for phase in self.phases)

    @property
    def pass_flop(self) -> float:
        """Operations of one pass of the main network."""
        return max(phase.flop for phase in self.phases if phase.network == self.main)


def find_part(checkpoint: Checkpoint, name: str) -> Component:
    """Return a component of a checkpoint. Raises KeyError if it has none of this name."""
    for part in checkpoint.components:
        if part.name == name:
            return part
    raise KeyError(name)


def find_config(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    """Return the configuration of a component. Raises KeyError if the checkpoint has none of this name."""
    return find_part(checkpoint, name).config


def count_attention(queries: int, keys: int, width: int) -> float:
    """Operations of attention: scores and weighted sum."""
    return 4.0 * queries * keys * width


def count_joint_blocks(config: Mapping[str, Any], tokens: int, text: int) -> float:
    """Operations of blocks in which text and picture attend together, as in Flux and Qwen-Image.

    Each token passes 12 · d² weights in each block: four projections and a feed-forward layer of four times the width.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config.get("num_single_layers", 0)
    total = tokens + text
    return layers * (2.0 * total * 12 * width**2 + count_attention(total, total, width))


def count_encoder(config: Mapping[str, Any], tokens: int) -> float:
    """Operations of a text or picture encoder of transformers on `tokens` tokens."""
    width = config.get("hidden_size") or config["d_model"]
    inner = config.get("intermediate_size") or config["d_ff"]
    layers = config.get("num_hidden_layers") or config.get("num_layers") or config["depth"]
    heads = config.get("num_attention_heads") or config["num_heads"]
    size = config.get("head_dim") or config.get("d_kv") or width // heads
    queried, shared = heads * size, (config.get("num_key_value_heads") or heads) * size
    gated = "gated" in str(config.get("feed_forward_proj", "")) or "num_key_value_heads" in config or "depth" in config
    weights = 2 * width * queried + 2 * width * shared + (3 if gated else 2) * width * inner
    return layers * (2.0 * tokens * weights + count_attention(tokens, tokens, queried))


def encode_text(checkpoint: Checkpoint, name: str, tokens: int, passes: int, width: int = 2) -> Phase:
    """Return the phase of a text encoder. Its activations are a few vectors for each token."""
    config = find_config(checkpoint, name)
    inner = config.get("intermediate_size") or config["d_ff"]
    return Phase(name, passes, count_encoder(config, tokens), 4.0 * tokens * inner * width)


@dataclass(frozen=True, slots=True)
class Convolutions:
    """Work of a convolutional network at its published width, for each element of its latents."""

    width: int
    """The published width of its first level."""
    flop: float
    """Operations."""
    attention: int
    """Width of its attention, which sees all elements of a latent frame; 0 without attention."""
    elements: float
    """Elements of activations that are alive together."""

    def count(self, latents: int, width: int) -> float:
        """Operations on a latent frame of `latents` elements."""
        scale = width / self.width
        return latents * self.flop * scale**2 + count_attention(latents, latents, round(self.attention * scale))

    def hold(self, latents: int, width: int, element_bytes: int) -> float:
        """Bytes of activations for a latent frame of `latents` elements."""
        return latents * self.elements * width / self.width * element_bytes


PICTURE_DECODER = Convolutions(128, 605.6e6, 512, 49_200)
PICTURE_ENCODER = Convolutions(128, 264.5e6, 512, 41_200)
"""AutoencoderKL with blocks of 128, 256, 512 and 512 channels."""


def decode_picture(checkpoint: Checkpoint, area: int, passes: int, dtype: str) -> Phase:
    """Return the phase of the decoder of an AutoencoderKL."""
    return _convolve(checkpoint, PICTURE_DECODER, area, passes, dtype)


def encode_picture(checkpoint: Checkpoint, area: int, passes: int, dtype: str) -> Phase:
    """Return the phase of the encoder of an AutoencoderKL."""
    return _convolve(checkpoint, PICTURE_ENCODER, area, passes, dtype)


def _convolve(checkpoint: Checkpoint, net: Convolutions, area: int, passes: int, dtype: str) -> Phase:
    channels = find_config(checkpoint, "vae")["block_out_channels"]
    latents = area // 4 ** (len(channels) - 1)
    return Phase("vae", passes, net.count(latents, channels[0]), net.hold(latents, channels[0], BYTES[dtype]))


def describe_size(area: int, frames: int = 1) -> str:
    """Return `1,048,576 pixels`, with the number of frames of a video."""
    return f"{area:,} pixels" + (f" and {frames} frames" if frames > 1 else "")


@dataclass(frozen=True, slots=True)
class Jobs(Generic[Request]):
    """Two requests between which all others lie."""

    default: Job[Request]
    """A request without options."""
    largest: Job[Request]
    """The request with the largest allowed value of each field."""


def make_jobs(
    request: type[Request],
    limits: Mapping[str, int],
    defaults: Mapping[str, Any],
    costly: Mapping[str, Any] | None = None,
    pictures: tuple[int, int] = (1, 1),
) -> Jobs[Request]:
    """Return the default request of a deployment and the largest one that it allows.

    Args:
        request: class of the request.
        limits: field → largest value that the deployment allows.
        defaults: field → default value, from the checkpoint and the configuration.
        costly: field → value that makes a request cost more, e.g. a guidance scale.
        pictures: numbers of pictures that the model sees, by default and at most.
    """
    values = {name: value for name, value in defaults.items() if name in request.model_fields}
    if "prompt" in request.model_fields and request.model_fields["prompt"].is_required():
        values["prompt"] = "a prompt"
    usual = request.model_validate(values)
    bounds = {name: limit for name, limit in limits.items() if name in request.model_fields}
    area = limits.get("max_area", 0)
    most = usual.model_copy(update={**bounds, **(costly or {})})
    return Jobs(Job(usual, min(_find_area(usual), area) or area, pictures[0]), Job(most, area, pictures[1]))


def _find_area(request: BaseModel) -> int:
    """Return the number of pixels that a request asks for."""
    size: str | None = getattr(request, "size", None)
    if size is not None:
        width, height = map(int, size.split("x"))
        return width * height
    return int(getattr(request, "max_area", 0))


def check_cost(cost: Cost, max_pflop: float) -> None:
    """Raise LimitExceeded with the arithmetic if a request costs more than `max_pflop` 10¹⁵ operations."""
    if cost.flop > max_pflop * PETA:
        rest = (cost.flop - cost.passes * cost.pass_flop) / PETA
        raise LimitExceeded(
            f"steps: a request may cost at most {max_pflop:g} PFLOP, and this one costs {cost.flop / PETA:,.1f}: "
            f"{cost.passes} forward passes of {cost.pass_flop / PETA:,.3f} PFLOP for {cost.work}, and {rest:,.1f} "
            "before and after them; ask for fewer steps or frames, or a smaller size",
            param="steps",
        )
