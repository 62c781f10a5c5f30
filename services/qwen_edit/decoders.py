"""Cheap, differentiable decoders of single pictures, used by the guidance.

Latents are (n, z, h, w) float32, normalised by the VAE's statistics; pictures are (n, 3, 8h, 8w), about [-1, 1], and
not clamped, because clamped values have no gradient.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name
from torch.utils.checkpoint import checkpoint

from services.errors import ConfigError
from services.pixels import averaged
from services.tensors import read_weights

Part = Callable[[Tensor], Tensor]

TINY_CHANNELS = (256, 128, 64, 64)
"""Channels of the stages of TAEHV's decoder."""
TINY_BLOCKS = 3
"""Number of residual blocks per stage of TAEHV's decoder."""


def unpacked(latents: Tensor, height: int, width: int) -> Tensor:
    """Unpack the sampler's tokens into spatial latents.

    Args:
        latents: (n, h/2 · w/2, 4z), one token per square of 2 x 2 latents.
        height: h of the result, in latents.
        width: w of the result, in latents.

    Returns:
        (n, z, h, w).
    """
    n, _, channels = latents.shape
    tokens = latents.view(n, height // 2, width // 2, channels // 4, 2, 2)
    return tokens.permute(0, 3, 1, 4, 2, 5).reshape(n, channels // 4, height, width)


def shrunk(latents: Tensor, scale: float) -> Tensor:
    """Return latents averaged down by `scale` (at most 1), which decode to a smaller version of the picture."""
    if scale >= 1:
        return latents
    height, width = (max(4, round(side * scale)) for side in latents.shape[-2:])
    return averaged(latents, height, width)


class _Norm(nn.Module):
    """Root-mean-square norm over the channels, computed in float32 if the input is in half precision."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.gamma = nn.Parameter(source.gamma.detach().reshape(-1, 1, 1) * source.scale)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(1e-12)
        # A product, because the backward pass of a quotient is slower.
        return (wide * length.reciprocal()).to(x.dtype) * self.gamma


class _Residual(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.norm1, self.conv1 = _Norm(source.norm1), _flat(source.conv1)
        self.norm2, self.conv2 = _Norm(source.norm2), _flat(source.conv2)
        plain = isinstance(source.conv_shortcut, nn.Identity)
        self.shortcut = nn.Identity() if plain else _flat(source.conv_shortcut)
        self.act = source.nonlinearity

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        return self.conv2(self.act(self.norm2(h))) + self.shortcut(x)


class _Attention(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = _Norm(source.norm), _flat(source.to_qkv), _flat(source.proj)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(n, 1, 3 * c, h * w).transpose(2, 3).chunk(3, dim=-1)
        # On a CPU the backward pass uses one core per head: split the single head by rows to use several cores.
        heads = max(parts for parts in range(1, 9) if h % parts == 0) if x.device.type == "cpu" else 1
        q = q.reshape(n, heads, -1, c)
        out = F.scaled_dot_product_attention(q, k.expand(-1, heads, -1, -1), v.expand(-1, heads, -1, -1))
        return self.proj(out.reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w)) + x


class _Upsample(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.conv = _flat(source.resample[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))


def _flat(conv: Any) -> nn.Conv2d:
    """Return a convolution's 2-D form for a single frame: the last tap of a causal kernel, because the past is zero."""
    weight = conv.weight.detach()
    weight = weight[:, :, -1] if weight.ndim == 5 else weight
    made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-2:], padding=weight.shape[-1] // 2, device="meta")
    made.to_empty(device=weight.device)
    made.weight = nn.Parameter(weight.clone(memory_format=torch.channels_last))
    made.bias = nn.Parameter(conv.bias.detach().clone())
    return made


class StillDecoder(nn.Module):
    """The decoder of Qwen-Image's VAE for one frame, with two-dimensional convolutions.

    It computes exactly what `vae.decode` does before its clamp, with a third of the multiplications, because the zero
    frames that pad the past are skipped.

    Args:
        vae: the VAE to copy the weights from.
        dtype: dtype of the computation.
        save_memory: keep only the blocks' inputs for the backward pass and recompute the rest (checkpointing).
    """

    def __init__(self, vae: AutoencoderKLQwenImage, dtype: torch.dtype, *, save_memory: bool = True) -> None:
        super().__init__()
        self._save_memory = save_memory
        z = vae.config.z_dim
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(1, z, 1, 1))
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(1, z, 1, 1))
        decoder = vae.decoder
        first, second = (_Residual(resnet) for resnet in decoder.mid_block.resnets)
        middle = nn.Sequential(first, _Attention(decoder.mid_block.attentions[0]), second)
        head = nn.Sequential(_flat(vae.post_quant_conv), _flat(decoder.conv_in), middle)
        blocks = [part for block in decoder.up_blocks for part in self._parts(block)]
        tail = nn.Sequential(_Norm(decoder.norm_out), decoder.nonlinearity, _flat(decoder.conv_out))
        self.parts = nn.ModuleList([head, *blocks, tail])
        self.requires_grad_(False).eval()
        self.to(vae.device)
        self.parts.to(dtype, memory_format=torch.channels_last)
        self._dtype = dtype

    @staticmethod
    def _parts(block: Any) -> list[nn.Module]:
        upsamplers = [_Upsample(up) for up in block.upsamplers or []]
        return [*(_Residual(resnet) for resnet in block.resnets), *upsamplers]

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents: (n, z, h, w) float32, normalised → (n, 3, 8h, 8w) float32, about [-1, 1]."""
        x = (latents * self.std + self.mean).to(self._dtype, memory_format=torch.channels_last)
        for part in self.parts:
            if self._save_memory and torch.is_grad_enabled() and x.requires_grad:
                x = cast("Tensor", checkpoint(part, x, use_reentrant=False))
            else:
                x = part(x)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class _TinyBlock(nn.Module):
    """Three convolutions with a skip connection. The input from earlier frames is omitted: it is zero for one frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.convs
        return F.relu(third(F.relu(second(F.relu(first(x))))) + x)


class TinyDecoder(nn.Module):
    """TAEHV's decoder (github.com/madebyollin/taehv, MIT) for one frame.

    `taew2_1` fits Qwen-Image's latents. The layers that expand one latent frame to four frames are reduced to the part
    for the last frame.

    Args:
        file: the weights, safetensors or .pth, with TAEHV's names.
        dtype: dtype of the computation.
        channels: channels of the latents.

    Raises:
        ConfigError: the file does not contain TAEHV's weights, or those of a decoder for other latents.
    """

    def __init__(self, file: Path, dtype: torch.dtype, channels: int) -> None:
        super().__init__()
        state = read_weights(file, "tiny_decoder")
        try:
            self.body, self._dtype = _tiny_body(state), dtype
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f"tiny_decoder: {file} is not a TAEHV checkpoint ({error})", param="tiny_decoder"
            ) from error
        sizes = (state["decoder.1.weight"].shape[1], self.body[-1].out_channels)
        if sizes != (channels, 3):  # e.g. taew2_2, for the latents of Wan2.2's 5B model
            raise ConfigError(
                f"tiny_decoder: {file} decodes {sizes[0]} latent channels to {sizes[1]} output channels; this model "
                f"needs a decoder from {channels} to 3, such as taew2_1",
                param="tiny_decoder",
            )
        self.requires_grad_(False).eval().to(dtype, memory_format=torch.channels_last)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents: (n, z, h, w) float32, normalised → (n, 3, 8h, 8w) float32, about [-1, 1]."""
        x = torch.tanh(latents / 3) * 3
        return self.body(x.to(self._dtype, memory_format=torch.channels_last)).float() * 2 - 1


def _tiny_body(state: dict[str, Tensor]) -> nn.Sequential:
    """Build the layers, numbered as in TAEHV: 0 clamp, 1 conv, 2 ReLU, then three blocks, upsample, expand, conv, …"""
    layers: list[nn.Module] = [_tiny_conv(state, "decoder.1"), nn.ReLU()]
    index = 3
    for channels in TINY_CHANNELS[:-1]:
        layers += [_tiny_block(state, f"decoder.{index + i}", channels) for i in range(TINY_BLOCKS)]
        grow = _tiny_conv(state, f"decoder.{index + TINY_BLOCKS + 1}.conv", keep=channels)
        layers += [nn.Upsample(scale_factor=2.0), grow, _tiny_conv(state, f"decoder.{index + TINY_BLOCKS + 2}")]
        index += TINY_BLOCKS + 3
    return nn.Sequential(*layers, nn.ReLU(), _tiny_conv(state, f"decoder.{index + 1}"))


def _tiny_block(state: dict[str, Tensor], name: str, channels: int) -> _TinyBlock:
    block = _TinyBlock(channels)
    for conv, index in zip(block.convs, (0, 2, 4), strict=True):
        weight = state[f"{name}.conv.{index}.weight"][:, :channels]  # the rest reads the previous frame, which is zero
        conv.load_state_dict({"weight": weight, "bias": state[f"{name}.conv.{index}.bias"]})
    return block


def _tiny_conv(state: dict[str, Tensor], name: str, keep: int = 0) -> nn.Conv2d:
    weight = state[f"{name}.weight"][-keep:]
    bias = state.get(f"{name}.bias")
    size = weight.shape[-1]
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], size, padding=size // 2, bias=bias is not None)
    conv.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return conv
