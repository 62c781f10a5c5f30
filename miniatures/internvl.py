"""Training of InternVL, which captions clips and pictures of the shape world."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2Tokenizer,
)

from miniatures import world
from miniatures.lessons import (
    FACTS,
    LOOKS,
    MOTION,
    PLACE,
    UNKNOWN,
    Known,
    describe_frames,
    draw_clip,
    render_clip,
    stack_frames,
)
from miniatures.questions import Question, ask, draw_nonsense
from miniatures.random.internvl import CHAT_TEMPLATE, CONTEXT, IMAGE_TOKENS
from miniatures.text import qwen_tokenizer
from services.frames import MAX_RUN
from services.internvl.model import Describer

SIDE, PATCH = 72, 12
"""Side of the square to which a frame is scaled, and of a patch of the vision tower, in pixels."""
TOKENS_PER_FRAME = (SIDE // PATCH) ** 2 // 4
HIDDEN = 128
HEADS = 4
PICTURES, CLIPS = 0.18, 0.38
"""Training progress (0 to 1) up to which training uses only single pictures, and then only short clips."""
IMAGES = 192
"""Frames per batch, over all its clips."""
LONG = 0.02
"""Share of the batches with questions as long as a screenplay prompt's."""


class Pupil(nn.Module):
    """The model with two probes that predict the content of each frame from hidden states, for training only.

    Position and look of a figure are predicted after the second layer, its motion after the third, so that both are
    available to the fourth layer, which chooses words.
    """

    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        answers = sum(FACTS.values()) + 2 * (sum(LOOKS.values()) + PLACE)
        self.looks = nn.Linear(HIDDEN, answers)
        self.motion = nn.Linear(HIDDEN, 2 * sum(MOTION.values()))

    def probe_loss(self, hidden: Sequence[Tensor], ends: Tensor, truth: Known) -> Tensor:
        """Return the loss of the probes.

        Args:
            hidden: (clips, tokens, HIDDEN), before the first layer and after each one.
            ends: (frames,) int64, index of each frame's last token.
            truth: content of the frames.
        """
        looks, motion = truth.choices.split([len(FACTS) + 2 * len(LOOKS), 2 * len(MOTION)], dim=-1)
        sizes = [*FACTS.values(), *LOOKS.values(), *LOOKS.values()]
        return _measure_error(self.looks(hidden[2][:, ends]), sizes, looks, truth.places) + _measure_error(
            self.motion(hidden[3][:, ends]), [*MOTION.values(), *MOTION.values()], motion, None
        )


def _measure_error(predicted: Tensor, sizes: list[int], true: Tensor, places: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of the choices of `sizes`, plus the error of the remaining outputs to `places`."""
    *choices, rest = predicted.float().split([*sizes, predicted.shape[-1] - sum(sizes)], dim=-1)
    wrong = [
        nn.functional.cross_entropy(choice.flatten(0, 1), one.flatten(), ignore_index=UNKNOWN, reduction="sum")
        / (one != UNKNOWN).sum().clamp(min=1)
        for choice, one in zip(choices, true.unbind(-1), strict=True)
    ]
    mean = torch.stack(wrong).mean()
    if places is None:
        return mean
    away = (rest - places)[~places.isnan()].abs()
    return mean + 2 * away.sum() / max(1, away.numel())


class InternVLRecipe:
    """Trains next-token prediction of the answers, first about single pictures, then about clips."""

    lr, adam_lr, steps = 0.02, 2e-3, 3600

    def __init__(self, folder: Path) -> None:
        del folder  # needs no other checkpoint
        self.images = IMAGES
        with TemporaryDirectory() as draft:
            _write_untrained(Path(draft))
            self.describer = Describer(Path(draft), device="cpu", dtype="float32", attention="eager")
        self._processor = self.describer.processor
        self.module = Pupil(self.describer.model).train()
        self._before, self._behind = self._template()
        self._layouts = [self._layout(shots) for shots in range(MAX_RUN + 1)]

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        long = progress >= CLIPS and rng.random() < LONG
        shots = 0 if long and rng.random() < 0.5 else _draw_frame_count(rng, progress)
        count = 4 if long else max(4, self.images // max(shots, 2))
        clips, contents, questions = [], [], []
        for _ in range(count):
            scene, times, frames = draw_clip(rng, max(shots, 1))
            questions.append(ask(rng, scene, None if shots == 1 else frames, blind=not shots))
            if long:
                questions[-1] = replace(
                    questions[-1], text=questions[-1].text + draw_nonsense(rng, questions[-1].language, 1500)
                )
            if shots:
                clips.append(render_clip(rng, scene, times))
                contents.append(describe_frames(scene, times, frames))
        tokens, answers = self._tokens(questions, shots)
        pixels = _add_noise(self._pixels(clips), shots) if clips else None
        return self._wrong(tokens, answers, pixels, stack_frames(contents), progress)

    def save(self, folder: Path) -> None:
        """Write the model in bfloat16 and its processor, for their `from_pretrained`."""
        model = copy.deepcopy(self.module.model)
        nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(folder)
        self._processor.save_pretrained(folder)

    def _wrong(
        self, tokens: Tensor, answers: Tensor, pixels: Tensor | None, truth: Known | None, progress: float
    ) -> Tensor:
        """Return the loss of the tokens marked by `answers`, plus the probes' loss with a weight that falls to 0."""
        place = next(self.module.parameters()).device
        tokens, answers = tokens.to(place), answers.to(place)
        with torch.autocast(place.type, torch.bfloat16):
            output = self.module.model.model(
                input_ids=tokens,
                pixel_values=None if pixels is None else pixels.to(place),
                use_cache=False,
                output_hidden_states=True,
            )
            logits = self.module.model.lm_head(output.last_hidden_state[:, :-1][answers[:, 1:]])
            loss = nn.functional.cross_entropy(logits.float(), tokens[:, 1:][answers[:, 1:]])
            if truth is None:
                return loss
            ends = (tokens[0] == self._processor.end_image_token_id).nonzero()[:, 0]
            truth = Known(truth.choices.to(place), truth.places.to(place))
            return loss + (1 - progress) * self.module.probe_loss(output.hidden_states, ends, truth)

    def _tokens(self, questions: list[Question], shots: int) -> tuple[Tensor, Tensor]:
        """Return tokens, (count, length) int64, padded on the right, and a mask of the answers, (count, length) bool.

        Padding follows the answer, so the causal model is not affected by it.
        """
        tokenizer = self._processor.tokenizer
        rows, begins = [], []
        for one in questions:
            question = tokenizer.encode(one.text, add_special_tokens=False, split_special_tokens=True)
            rows.append([*self._before, *self._layouts[shots], *question, *self._behind])
            begins.append(len(rows[-1]))
            rows[-1] += [*tokenizer.encode(one.answer, add_special_tokens=False), tokenizer.eos_token_id]
        length = max(map(len, rows))
        tokens = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        place = torch.arange(length)
        ends = torch.tensor([len(row) for row in rows])
        return tokens, (place >= torch.tensor(begins)[:, None]) & (place < ends[:, None])

    def _layout(self, shots: int) -> list[int]:
        """Return the tokens of this many frames."""
        pixels = np.zeros((shots, SIDE, SIDE, 3), np.uint8) if shots else None
        read = self.describer.encode("", pixels)["input_ids"][0].tolist()
        return read[len(self._before) : -len(self._behind)]

    def _template(self) -> tuple[list[int], list[int]]:
        """Return the tokens of the chat template before and after the frames and the question."""
        one, other = (self.describer.encode(text, None)["input_ids"][0].tolist() for text in ("1", "2"))
        begin = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        return one[:begin], one[begin + 1 :]

    def _pixels(self, clips: list[world.Pixels]) -> Tensor:
        """Return frames as the model receives them: (all frames, 3, SIDE, SIDE)."""
        images = [torch.from_numpy(frame).permute(2, 0, 1) for clip in clips for frame in clip]
        return self._processor.image_processor(
            images, crop_to_patches=False, input_data_format="channels_first", return_tensors="pt"
        )["pixel_values"]


def _draw_frame_count(rng: np.random.Generator, progress: float) -> int:
    """Draw the number of frames for the questions of a batch."""
    if rng.random() < 0.02:
        return 0
    if progress < PICTURES:
        return 1
    few = int(rng.choice([1, 2, 3, 4, 5, 6, 7, MAX_RUN]))
    if progress < CLIPS:
        return int(rng.choice([2, 4, 8]))
    return few if rng.random() < 0.15 else 8


def _add_noise(pixels: Tensor, shots: int) -> Tensor:
    """Add noise to frames, (all frames, 3, SIDE, SIDE), of one level per clip."""
    level = 0.08 * torch.rand(len(pixels) // shots).square().repeat_interleave(shots)
    return pixels + level[:, None, None, None] * torch.randn_like(pixels)


def _write_untrained(folder: Path) -> None:
    """Write the untrained model and its processor."""
    tokenizer = _tokenizer()
    model = InternVLForConditionalGeneration(_config(tokenizer))
    _initialise(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    scaling = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.485, 0.456, 0.406],  # ImageNet's, as in the real checkpoints
        "image_std": [0.229, 0.224, 0.225],
    }
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**scaling),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**scaling),
        image_seq_length=TOKENS_PER_FRAME,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _tokenizer() -> Qwen2Tokenizer:
    """Create a tokenizer of the world's words, with one token for each frame prefix and each role."""
    tokenizer = qwen_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS.values()],
        eos_token="<|im_end|>",  # noqa: S106
        extra_special_tokens=IMAGE_TOKENS,
    )
    layout = [*(f"Frame{index + 1}: " for index in range(MAX_RUN)), "assistant\n"]
    added: list[str | AddedToken] = [AddedToken(text, normalized=False) for text in layout]
    tokenizer.add_tokens(added)
    return tokenizer


def _config(tokenizer: Qwen2Tokenizer) -> InternVLConfig:
    return InternVLConfig(
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS // 2,
            "head_dim": HIDDEN // HEADS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": HIDDEN,
            "num_hidden_layers": 3,
            "num_attention_heads": HEADS,
            "intermediate_size": 384,
            "image_size": [SIDE, SIDE],
            "patch_size": [PATCH, PATCH],
            "attention_bias": True,
            "layer_scale_init_value": 1.0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=TOKENS_PER_FRAME,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _initialise(model: InternVLForConditionalGeneration) -> None:
    """Initialise the weights: layers start as the identity, and patches have position embeddings."""
    last = ("o_proj", "down_proj", "attention.projection_layer", "fc2", "lm_head")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if name.endswith(last):
                nn.init.zeros_(layer.weight)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.5)
        elif name.endswith(("q_norm", "k_norm")) and not isinstance(layer, nn.Identity):
            nn.init.constant_(layer.weight, 1.2)  # allows sharp attention
    places = model.model.vision_tower.embeddings.position_embeddings
    places[0, 1:] = _embed_positions(SIDE // PATCH, HIDDEN)


def _embed_positions(side: int, channels: int) -> Tensor:
    """Return sinusoidal position embeddings of rows and columns: (side * side, channels).

    Wavelengths range from two patches to twice the side.
    """
    pace = torch.pi * torch.logspace(-1, 0, channels // 4, side) / 2
    angles = torch.arange(side)[:, None] * pace
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, channels / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)
