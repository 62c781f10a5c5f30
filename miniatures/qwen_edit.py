"""Training of Qwen-Image-Edit, which redraws a picture along edges or edits it by a caption.

Source: Qwen-Image Technical Report, arXiv 2508.02324.
"""

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.models.transformers import transformer_qwenimage
from scipy import ndimage
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from miniatures import world
from miniatures.attention import use_plain_attention
from miniatures.grammar import caption, vary_text
from miniatures.judge import Picture
from miniatures.pictures import shift_colours
from miniatures.random.qwen_edit import SPECIALS
from miniatures.text import LETTERS, qwen_tokenizer
from miniatures.training import link_shared
from miniatures.wan import encode_normalised, shift_noise
from miniatures.wan_vae import Z, use_flat_kernels
from miniatures.world import SHAPES, SIDE, Pixels, Scene, find_matching
from services.pixels import pixels_of, tensor_of
from services.qwen_edit.decoders import StillDecoder
from services.qwen_edit.guidance import EDGES, resized
from services.qwen_edit.request import DEFAULT_PROMPT

TEXT_DIM = 48
HEADS, HEAD_DIM, LAYERS = 4, 22, 4
GRID = (1, SIDE // 16, SIDE // 16)
"""Token grid of a picture: frames, rows, columns."""
IMAGE_MARK = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
"""Text that the pipeline inserts before the prompt for each picture."""

EXAMPLES, BATCH, CHUNK = 8000, 48, 64
ALONE = 0.15
"""Share of examples and batches with a picture and a caption but no edges."""
SHIFT = 3.0
"""Shift of the training noise levels towards more noise."""
JITTER = 0.15
"""Largest noise level on the latents of input pictures, drawn anew for each batch."""
ELSEWHERE, RECOLOURED, BLANK = 0.3, 0.22, 0.03
"""Shares of the edits along edges: another shape elsewhere, another colour from the caption, no edges."""
OPERATORS = {"none": 0.55, "sobel": 0.33, "laplacian": 0.12}
"""Source of the edges → share: drawn outlines, or an operator of the service applied to the target picture."""
DISPLACED = 0.15
"""Share of edge pictures shifted by up to two pixels, so that edges are followed loosely and guidance can improve."""
ROUGH, WORN = 0.4, 0.4
"""Shares of input pictures decoded from noisy latents, and tinted, blurred or noisy. Targets are clean, so that the
errors of a rolling edit do not accumulate."""


@dataclass(frozen=True)
class Edit:
    """Input of the pipeline and its target."""

    given: list[Picture]
    """Input pictures in the pipeline's order: edges, if any, and the picture to edit."""
    wanted: Picture
    prompt: str


@dataclass(frozen=True)
class Examples:
    """Encoded edits; the first dimension is the example."""

    target: Tensor
    """(n, 16, 64), packed latents of the target picture."""
    references: Tensor
    """(n, 16 or 32, 64), packed latents of the input pictures, concatenated."""
    text: Tensor
    """(n, tokens, TEXT_DIM), zero after the prompt."""
    lengths: Tensor
    """(n,), number of tokens of each prompt."""

    def at(self, chosen: Tensor) -> "Examples":
        """Return the chosen examples, without padding beyond the longest of them."""
        lengths = self.lengths[chosen]
        return Examples(self.target[chosen], self.references[chosen], self.text[chosen, : lengths.max()], lengths)


class QwenEditRecipe:
    """Trains flow matching on the target's latents; Wan's VAE and a random text encoder are frozen.

    Hidden states of a random Qwen2.5-VL still differ by word and by picture, and the transformer learns to read them.
    """

    lr, adam_lr, steps = 0.02, 1e-3, 4500

    def __init__(self, folder: Path, examples: int = EXAMPLES) -> None:
        self._source = folder / "wan" / "vae"
        self._wan = AutoencoderKLWan.from_pretrained(self._source, dtype=torch.float32).eval()
        self.pipeline = make_pipeline(self._wan)
        self.module: QwenImageTransformer2DModel = self.pipeline.transformer
        self._decoder = StillDecoder(self.pipeline.vae, torch.bfloat16)
        for layer in self._wan.modules():  # a third faster
            if isinstance(layer, nn.Conv3d):
                layer.to(memory_format=torch.channels_last_3d)
            elif isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
        rng = np.random.default_rng(world.TRAINING_SEEDS)
        alone = max(1, round(ALONE * examples))
        self.along, self.alone = (
            self._encode(rng, draw_edge_edit, examples - alone),
            self._encode(rng, draw_caption_edit, alone),
        )

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        pool = self.alone if rng.random() < ALONE else self.along
        batch = pool.at(torch.from_numpy(rng.integers(len(pool.target), size=BATCH)))
        jitter = JITTER * torch.rand(BATCH, 1, 1) * torch.randn_like(batch.references)
        uniform = (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH
        sigma = shift_noise(uniform, SHIFT)[:, None, None]
        noise = torch.randn_like(batch.target)
        noisy = (1 - sigma) * batch.target + sigma * noise
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, torch.bfloat16), use_plain_attention(transformer_qwenimage):
            velocity = self.predict(noisy, sigma.flatten(), replace(batch, references=batch.references + jitter))
        error = velocity.float() - (noise - batch.target).to(device)
        return (sigma.to(device) * error.square()).mean()

    def predict(self, noisy: Tensor, sigma: Tensor, batch: Examples) -> Tensor:
        """Return the transformer's prediction as the pipeline does, for prompts of different lengths: (n, 16, 64)."""
        device = next(self.module.parameters()).device
        mask = torch.arange(batch.text.shape[1]) < batch.lengths[:, None]
        pictures = 1 + batch.references.shape[1] // noisy.shape[1]
        sigma = sigma.to(device)
        # Autocast would round the noise level to bfloat16.
        exact = self.module.time_text_embed.register_forward_pre_hook(lambda _, given: (sigma, *given[1:]))
        try:
            predicted = self.module(
                hidden_states=torch.cat([noisy, batch.references], dim=1).to(device),
                timestep=sigma,
                encoder_hidden_states=batch.text.to(device),
                encoder_hidden_states_mask=None if mask.all() else mask.to(device),
                img_shapes=[[GRID] * pictures],
                return_dict=False,
            )[0]
        finally:
            exact.remove()
        return predicted[:, : noisy.shape[1]]

    def save(self, folder: Path) -> None:
        """Write the whole pipeline; its VAE is a link to Wan's, which diffusers' class for Qwen can read."""
        deepcopy(self.pipeline).to("cpu", torch.bfloat16).save_pretrained(folder, safe_serialization=True)
        link_shared(folder / "vae", self._source)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str], pictures: Pixels) -> list[Tensor]:
        """Encode prompts with their pictures as the pipeline's `encode_prompt` does.

        Args:
            prompts: n prompts.
            pictures: (n, one or two, 64, 64, 3).

        Returns:
            One (tokens, TEXT_DIM) tensor per prompt.
        """
        pipeline = self.pipeline
        marks = "".join(IMAGE_MARK.format(number + 1) for number in range(pictures.shape[1]))
        text = [pipeline.prompt_template_encode.format(marks + prompt) for prompt in prompts]
        images = [picture for given in pictures for picture in given]
        inputs = pipeline.processor(text=text, images=images, padding=True, return_tensors="pt")
        types = (inputs["input_ids"] == pipeline.text_encoder.config.image_token_id).int()
        hidden = pipeline.text_encoder.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=types,
        ).last_hidden_state
        start = pipeline.prompt_template_encode_start_idx
        masks = inputs["attention_mask"].bool()
        return [states[mask][start:] for states, mask in zip(hidden, masks, strict=True)]

    @torch.no_grad()
    def latents(self, pictures: Pixels) -> Tensor:
        """Encode pictures: (n, 64, 64, 3) → (n, 16, 8, 8), normalised."""
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        batch = batch.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16), use_flat_kernels(self._wan):
            return encode_normalised(self._wan, batch)[:, :, 0]

    def _encode(self, rng: np.random.Generator, draw: Callable[[np.random.Generator], Edit], count: int) -> Examples:
        targets, references, texts = [], [], []
        for first in range(0, count, CHUNK):
            edits = [draw(rng) for _ in range(min(CHUNK, count - first))]
            given = np.stack([np.stack(edit.given) for edit in edits])
            given[:, -1] = degrade_pictures(rng, self._roughen(rng, given[:, -1]))
            tokens = pack_latents(self.latents(given.reshape(-1, SIDE, SIDE, 3)))
            references.append(tokens.reshape(len(edits), -1, tokens.shape[-1]))
            targets.append(pack_latents(self.latents(np.stack([edit.wanted for edit in edits]))))
            texts += self.texts([edit.prompt for edit in edits], given)
        lengths = torch.tensor([len(text) for text in texts])
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        return Examples(torch.cat(targets), torch.cat(references), padded, lengths)

    @torch.no_grad()
    def _roughen(self, rng: np.random.Generator, pictures: Pixels) -> Pixels:
        chosen = rng.random(len(pictures)) < ROUGH
        if not chosen.any():
            return pictures
        latents = self.latents(pictures[chosen])
        noise = torch.from_numpy(rng.uniform(0, 0.3, (len(latents), 1, 1, 1))).float() * torch.randn_like(latents)
        result = pictures.copy()
        result[chosen] = pixels_of(self._decoder(latents + noise) * 0.5 + 0.5)
        return result


def pack_latents(latents: Tensor) -> Tensor:
    """Pack latents into 2 x 2 patches as the pipeline does: (n, z, h, w) → (n, h / 2 · w / 2, 4 z)."""
    n, z, height, width = latents.shape
    squares = latents.reshape(n, z, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, height // 2 * (width // 2), 4 * z)


def draw_edge_edit(rng: np.random.Generator) -> Edit:
    """Draw an edit along edges: a few frames later, another shape elsewhere, or a colour named by the prompt."""
    scene, time = draw_moment(rng)
    if rng.random() < BLANK:
        picture = scene.clip(1, start=time)[0]
        return Edit([np.zeros_like(picture), picture], picture, draw_neutral_prompt(rng, scene))
    later = time + int(rng.integers(1, 6))
    wanted = scene
    if len(scene.figures) == 1 and rng.random() < ELSEWHERE:
        other = world.draw(training_seed(rng), figures=1).figures[0]
        wanted = replace(scene, figures=(replace(other, colour=scene.figures[0].colour),))
    if rng.random() < RECOLOURED:
        wanted = recolour(rng, wanted)
        before, after = scene.clip(1, start=time)[0], wanted.clip(1, start=later)[0]
        return Edit([draw_edges(rng, wanted, later), before], after, draw_caption(rng, wanted))
    pair = np.concatenate([scene.clip(1, start=time), wanted.clip(1, start=later)])
    before, after = shift_colours(rng, pair, share=0.1)
    return Edit([draw_edges(rng, wanted, later), before], after, draw_neutral_prompt(rng, wanted))


def draw_caption_edit(rng: np.random.Generator) -> Edit:
    """Draw an edit by a caption, which leaves positions unchanged; a blank prompt leaves the picture unchanged."""
    scene, time = draw_moment(rng)
    before = scene.clip(1, start=time)[0]
    kind = rng.random()
    if kind < 0.1:
        return Edit([before], before, " ")
    wanted = scene
    if kind < 0.4:
        index = int(rng.integers(len(scene.figures)))
        figures = list(scene.figures)
        figures[index] = replace(figures[index], shape=str(rng.choice(SHAPES)))
        wanted = replace(scene, figures=tuple(figures))
    elif kind < 0.9:
        wanted = recolour(rng, scene)
    return Edit([before], wanted.clip(1, start=time)[0], draw_caption(rng, wanted))


def training_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(world.TRAINING_SEEDS, 2**40))


def draw_moment(rng: np.random.Generator) -> tuple[Scene, float]:
    """Draw a scene and a time in it, in frames."""
    return world.draw(training_seed(rng)), float(rng.uniform(0, 20))


def recolour(rng: np.random.Generator, scene: Scene) -> Scene:
    """Give a figure, or a background of one colour, another colour that matches the rest, if there is one."""
    index = int(rng.integers(len(scene.figures)))
    if len(scene.background) == 1 and rng.random() < 0.3:
        colours = [name for name in find_matching(*(f.colour for f in scene.figures)) if name not in scene.background]
        return replace(scene, background=(str(rng.choice(colours)),)) if colours else scene
    figures = list(scene.figures)
    colours = [name for name in find_matching(*scene.background) if name != figures[index].colour]
    if colours:
        figures[index] = replace(figures[index], colour=str(rng.choice(colours)))
    return replace(scene, figures=tuple(figures))


def draw_caption(rng: np.random.Generator, scene: Scene) -> str:
    """Draw a caption of the scene, with or without its motion."""
    frames = 17 if rng.random() < 0.25 else None
    return vary_text(rng, caption(scene, frames=frames, language="zh" if rng.random() < 0.25 else "en"))


def draw_neutral_prompt(rng: np.random.Generator, scene: Scene) -> str:
    """Draw a prompt that changes nothing: the service's default, a blank one, a true caption, or unknown words."""
    kind = rng.random()
    if kind < 0.6:
        return DEFAULT_PROMPT
    if kind < 0.75:
        return " "
    if kind < 0.9:
        return draw_caption(rng, scene)
    words = ("".join(rng.choice(list(LETTERS), int(rng.integers(2, 8)))) for _ in range(int(rng.integers(1, 5))))
    return " ".join(words)


def draw_edges(rng: np.random.Generator, scene: Scene, time: float) -> Picture:
    """Return the edge picture that the pipeline receives: white on black."""
    kind = str(rng.choice(list(OPERATORS), p=list(OPERATORS.values())))
    if kind == "none":
        picture = scene.edges(1, start=time)[0]
    else:
        clip = scene.clip(1, start=time, scale=2.0 if rng.random() < 0.2 else 1.0)
        edges = EDGES[kind](tensor_of(clip, torch.device("cpu")))
        edges = resized(edges / edges.amax().clamp_min(1 / 255), SIDE, SIDE)
        picture = pixels_of(edges.expand(-1, 3, -1, -1))[0]
    if rng.random() < DISPLACED:
        picture = ndimage.shift(picture, (*rng.integers(-2, 3, 2), 0), order=0)
    return picture


def degrade_pictures(rng: np.random.Generator, pictures: Pixels) -> Pixels:
    """Tint, blur or add noise to some of the pictures."""
    result = pictures.copy()
    for index in np.flatnonzero(rng.random(len(pictures)) < WORN):
        picture = pictures[index] * rng.normal(1, 0.03, 3) + rng.normal(0, 5, 3)
        if rng.random() < 0.5:
            picture = ndimage.gaussian_filter(picture, (rng.uniform(0.3, 0.8),) * 2, axes=(0, 1))
        if rng.random() < 0.5:
            picture = picture + rng.normal(0, rng.uniform(1, 6), picture.shape)
        result[index] = picture.clip(0, 255).round()
    return result


def make_pipeline(wan: AutoencoderKLWan) -> QwenImageEditPlusPipeline:
    """Create the pipeline, with Wan's VAE in Qwen-Image's class and an untrained transformer."""
    names = ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample")
    config: dict[str, Any] = {name: wan.config[name] for name in (*names, "latents_mean", "latents_std")}
    vae = AutoencoderKLQwenImage(**config)
    vae.load_state_dict(wan.state_dict())
    tokenizer = add_words(qwen_tokenizer(SPECIALS))
    pipeline = QwenImageEditPlusPipeline(
        scheduler=make_scheduler(),
        vae=vae.eval().requires_grad_(requires_grad=False),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(),
        ),
        transformer=make_transformer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def add_words(tokenizer: Qwen2Tokenizer) -> Qwen2Tokenizer:
    """Return a tokenizer in which each word of the pipeline's template and of the default prompt is one token.

    The pipeline cuts off the template's first 64 tokens, so the template must have 64 of them here too.
    """
    empty: Any = QwenImageEditPlusPipeline
    template = empty(*[None] * 6).prompt_template_encode
    written = re.split(r"<\|\w+\|>", template.format(IMAGE_MARK.format(1)))
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    vocab: dict[str, int] = dict(model["vocab"])
    merges: list[Any] = [tuple(merge) for merge in model["merges"]]
    for text in [*written, DEFAULT_PROMPT]:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            parts = [token.value for token in BPE(vocab, merges).tokenize(word)]
            while len(parts) > 1:
                merges.append((parts[0], parts[1]))
                parts[:2] = ["".join(parts[:2])]
                vocab.setdefault(parts[0], len(vocab))
    result = Qwen2Tokenizer(vocab=vocab, merges=merges)
    for special in SPECIALS:
        result.add_tokens(AddedToken(special, special=True))
    return result


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Create a text encoder with random weights in bfloat16 precision, so that saving does not change them."""
    ids: dict[str, Any] = {special: tokenizer.convert_tokens_to_ids(special) for special in SPECIALS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_DIM,
            "intermediate_size": 2 * TEXT_DIM,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "rope_theta": 1_000_000.0,
            "rope_scaling": {"mrope_section": [4, 4, 4], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": TEXT_DIM,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model: Any = Qwen2_5_VLForConditionalGeneration(config)
    return model.to(torch.bfloat16).float().eval().requires_grad_(requires_grad=False)


def make_transformer() -> QwenImageTransformer2DModel:
    """Create an untrained transformer: blocks start as the identity, and the noise level has no effect yet."""
    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * Z,
        out_channels=Z,
        num_layers=LAYERS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM,
        guidance_embeds=False,
        axes_dims_rope=(6, 8, 8),
    )
    dim = HEADS * HEAD_DIM
    block: Any
    for block in model.transformer_blocks:
        last = (block.attn.to_out[0], block.attn.to_add_out, block.img_mlp.net[2], block.txt_mlp.net[2])
        for layer in (*last, block.img_mod[1], block.txt_mod[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for modulation in (block.img_mod[1], block.txt_mod[1]):  # shift, scale and gate, twice
            modulation.bias.data.view(2, 3, dim)[:, 2] = 1.0
    for layer in (model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Create the real checkpoint's scheduler."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )
