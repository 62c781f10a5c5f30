"""Training of Flux: text to image by flow matching.

Sources: Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, arXiv 2403.03206; for the distilled
guidance: Diffusion Models without Classifier-free Guidance, arXiv 2502.12154.
"""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from miniatures import world
from miniatures.grammar import PORTRAITS, Language, caption, vary_text
from miniatures.image_vae import Z, draw_stranger
from miniatures.pictures import to_tensor
from miniatures.text import clip_tokenizer, share_meanings, t5_tokenizer
from miniatures.world import Pixels, Scene

SCENES, FACES = 12_000, 2_000
"""Number of scenes and of portraits in the training set."""
BATCH = 48
STARS = 2.0
"""Sampling weight of scenes with a star, relative to 1 for the others: a star is the hardest shape."""
TEXT, POOLED = 64, 32
"""Hidden sizes of T5 and of CLIP."""
LENGTHS = {24: 0.6, 32: 0.12, 64: 0.25, 128: 0.03}
"""Padded prompt length in tokens → share of the batches. The pipeline masks no padding."""
MIDDLE, WIDTH = 0.8, 1.0
"""Mean and standard deviation of the logits of the noise levels. Most levels fall where shapes are decided: at higher
noise a shape cannot be known, and errors at lower noise are removed by the VAE."""
GUIDED = 0.6
"""Training progress (0 to 1) from which guidance is trained."""
FAST = 0.06, 1e-3
"""Highest frequencies, in radians per thousandth, of the time and the guidance embedding that are used."""
NEIGHBOURS = (-1, 1, -2, 2)
"""Relative position to which each attention head of T5 is initialised."""


class FluxRecipe:
    """Trains the transformer to predict the velocity from picture to noise, together with both text encoders."""

    lr, adam_lr, steps = 0.02, 1e-3, 12_000

    def __init__(self, folder: Path, scenes: int = SCENES, faces: int = FACES) -> None:
        self._vae = AutoencoderKL.from_pretrained(folder / "flux" / "vae", dtype=torch.float32)
        self._words, self._letters = t5_tokenizer(), clip_tokenizer()
        self.module = nn.ModuleDict({"transformer": make_transformer(), "t5": self._t5(), "clip": self._clip()})
        self._scenes = [world.draw(world.TRAINING_SEEDS + index) for index in range(scenes)]
        rng = np.random.default_rng(world.TRAINING_SEEDS)
        portraits = np.stack([draw_stranger(rng) for _ in range(faces)])
        self._latents = torch.cat([encode_scenes(self._vae, self._scenes), encode_pictures(self._vae, portraits)])
        often = [STARS if any(f.shape == "star" for f in scene.figures) else 1.0 for scene in self._scenes]
        self._often = np.array(often + [1.0] * faces) / (sum(often) + faces)

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        device = next(self.module.parameters()).device
        chosen = rng.choice(len(self._latents), BATCH, p=self._often)
        picture = self._latents[chosen].to(device)
        known = dict(enumerate(self._scenes))
        prompts = [draw_prompt(rng, known.get(index)) for index in chosen]
        length = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        sigma = draw_sigmas(BATCH).to(device)
        noise = torch.randn_like(picture)
        noisy = torch.lerp(picture, noise, sigma[:, None, None])
        guidance = draw_guidance(BATCH).to(device)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = predict_velocity(self.module["transformer"], noisy, sigma, guidance, self.read(prompts, length))
            target = noise - picture
            if progress >= GUIDED:
                with torch.no_grad():
                    plain = predict_velocity(
                        self.module["transformer"], noisy, sigma, guidance, self.read([""], length)
                    )
                target = add_guidance(target, predicted, plain, guidance)
        return nn.functional.mse_loss(predicted, target)

    def read(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Encode prompts as the pipeline does: (batch, tokens, TEXT) and (batch, POOLED)."""
        device = next(self.module.parameters()).device
        longest = max(map(len, self._words(prompts).input_ids))
        words = self._words(prompts, padding="max_length", max_length=max(length, longest), return_tensors="pt")
        # Padded to the longest prompt only: CLIP's attention is causal, so no token sees what follows.
        letters = self._letters(prompts, padding="longest", truncation=True, max_length=77, return_tensors="pt")
        text = self.module["t5"](words.input_ids.to(device))[0]
        return text, self.module["clip"](letters.input_ids.to(device)).pooler_output

    def save(self, folder: Path) -> None:
        """Write the pipeline into `folder`."""
        nets = copy.deepcopy(self.module).cpu().to(torch.bfloat16).eval()
        FluxPipeline(
            scheduler=make_scheduler(),
            vae=copy.deepcopy(self._vae).to(torch.bfloat16),
            transformer=nets["transformer"],
            text_encoder=nets["clip"],
            tokenizer=self._letters,
            text_encoder_2=nets["t5"],
            tokenizer_2=self._words,
        ).save_pretrained(folder, safe_serialization=True)

    @torch.no_grad()
    def _t5(self) -> T5EncoderModel:
        """Create T5. In FLUX.1 only T5 encodes word order, so its heads start by attending to neighbouring words."""
        config = T5Config(
            vocab_size=len(self._words),
            d_model=TEXT,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=len(NEIGHBOURS),
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
        encoder = T5EncoderModel(config)
        half = config.relative_attention_num_buckets // 2  # half look back, first one word per bucket
        bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias.zero_()
        bias[half // 2 : half] = bias[half + half // 2 :] = -6.0
        for head, offset in enumerate(NEIGHBOURS):
            bias[abs(offset) + half * (offset > 0), head] = 3.0
        for block in encoder.encoder.block:
            block.layer[0].layer_norm.weight.fill_(0.3)  # T5 does not scale dot products: attention would saturate
        share_meanings(self._words, encoder.shared)
        return encoder

    @torch.no_grad()
    def _clip(self) -> CLIPTextModel:
        config = CLIPTextConfig(
            vocab_size=len(self._letters),
            hidden_size=POOLED,
            intermediate_size=2 * POOLED,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=POOLED,
            bos_token_id=self._letters.bos_token_id,
            eos_token_id=self._letters.eos_token_id,
            pad_token_id=self._letters.pad_token_id,
        )
        encoder = CLIPTextModel(config)
        nn.init.normal_(encoder.embeddings.token_embedding.weight)  # with CLIP's own scale, large steps would erase it
        nn.init.normal_(encoder.embeddings.position_embedding.weight, std=0.3)
        return encoder


@torch.no_grad()
def make_transformer() -> FluxTransformer2DModel:
    """Create a small FLUX.1 transformer whose blocks start as the identity."""
    model = FluxTransformer2DModel(
        in_channels=4 * Z,  # patches of 2 x 2 latents
        num_layers=1,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    lasts = [model.proj_out, *(block.proj_out for block in model.single_transformer_blocks)]
    for block in model.transformer_blocks:
        lasts += [block.attn.to_out[0], block.attn.to_add_out, block.ff.net[2], block.ff_context.net[2]]
    norms = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)
    modulations = [layer for layer in model.modules() if isinstance(layer, norms)]
    for layer in [*lasts, *(modulation.linear for modulation in modulations)]:
        layer.weight.zero_()
        layer.bias.zero_()
    for modulation in modulations[:-1]:  # shift, scale and gate, once or twice: gates start at 1
        modulation.linear.bias.view(-1, 3, model.inner_dim)[:, 2] = 1.0
    limit_frequencies(model.time_text_embed.timestep_embedder, FAST[0])
    limit_frequencies(model.time_text_embed.guidance_embedder, FAST[1])
    return model


def predict_velocity(
    model: FluxTransformer2DModel, noisy: Tensor, sigma: Tensor, guidance: Tensor, read: tuple[Tensor, Tensor]
) -> Tensor:
    """Call the transformer as the pipeline does; a single prompt is used for all pictures."""
    text, pooled = (part.expand(len(noisy), *part.shape[1:]) for part in read)
    side = math.isqrt(noisy.shape[1])
    return model(
        hidden_states=noisy,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=guidance,
        txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, noisy.device, torch.float32),
        return_dict=False,
    )[0].float()


@torch.no_grad()
def limit_frequencies(embedder: TimestepEmbedding, fastest: float) -> None:
    """Remove the frequencies above `fastest` and freeze the layer: rounded to bfloat16, they would be noise."""
    first = embedder.linear_1
    half = first.in_features // 2
    mask = (torch.exp(-math.log(10_000) * torch.arange(half) / half) <= fastest).repeat(2)
    first.weight.copy_(torch.randn_like(first.weight) * mask * 1.5 / mask.sum().sqrt())
    first.requires_grad_(requires_grad=False)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Create the scheduler of FLUX.1-dev."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def encode_scenes(vae: AutoencoderKL, scenes: list[Scene]) -> Tensor:
    """Encode the first frame of each scene: (scenes, 16, 4 Z)."""
    return encode_pictures(vae, np.concatenate([scene.clip(1) for scene in scenes]))


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Pixels) -> Tensor:
    """Encode pictures into packed 2 x 2 patches of latents: (n, 64, 64, 3) → (n, 16, 4 Z)."""
    parts = []
    for start in range(0, len(pictures), 64):
        latents = vae.encode(to_tensor(pictures[start : start + 64]).transpose(0, 1)).latent_dist.mode()
        scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        parts.append(FluxPipeline._pack_latents(scaled, *scaled.shape))
    return torch.cat(parts)


def draw_prompt(rng: np.random.Generator, scene: Scene | None) -> str:
    """Draw a prompt for the picture of a scene, or for a portrait if `scene` is None; one in ten is empty."""
    if rng.random() < 0.1:
        return ""
    language: Language = "zh" if rng.random() < 0.25 else "en"
    if scene is None:
        return vary_text(rng, str(rng.choice(PORTRAITS[language])))
    return vary_text(rng, caption(scene, frames=1 if rng.random() < 0.25 else None, language=language))


def draw_sigmas(count: int) -> Tensor:
    """Draw the noise levels of a batch, in (0, 1), evenly spaced in the quantiles of their distribution."""
    even = (torch.arange(count) + torch.rand(count)) / count
    return torch.sigmoid(MIDDLE + WIDTH * torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))


def draw_guidance(count: int) -> Tensor:
    """Draw guidance values: three quarters from the usual range (1 to 6), the others from all that are allowed."""
    return torch.where(torch.rand(count) < 0.75, 1 + 5 * torch.rand(count), 100 * torch.rand(count))


def add_guidance(target: Tensor, predicted: Tensor, plain: Tensor, guidance: Tensor) -> Tensor:
    """Return the training target with guidance, which pushes the prediction away from the unprompted one, `plain`."""
    push = (1 - 1 / convert_guidance(guidance))[:, None, None]
    return target + push * (predicted.detach() - plain)


def convert_guidance(guidance: Tensor) -> Tensor:
    """Return the scale of classifier-free guidance for a guidance value: 1.75 at 3.5, at most 2.5.

    Larger scales, which photographs need, would exaggerate pictures as simple as these.
    """
    return 1 + 0.3 * (guidance - 1).clamp(0, 5)
