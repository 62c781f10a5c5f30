"""InternVL: says what a clip of the shape world shows, or a picture of it."""

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
from miniatures.lessons import FACTS, LOOKS, MOTION, PLACE, UNKNOWN, Known, drawn, known, shown, stacked
from miniatures.questions import Question, ask, unheard_of
from miniatures.random.internvl import CHAT_TEMPLATE, CONTEXT, IMAGE_TOKENS
from miniatures.text import qwen_tokenizer
from services.frames import MAX_RUN
from services.internvl.model import Describer

SIDE, PATCH = 72, 12
"""Pixels of the square a frame is scaled to, and of what one token of the vision tower sees."""
TOKENS_PER_FRAME = (SIDE // PATCH) ** 2 // 4
HIDDEN = 128
HEADS = 4
PICTURES, CLIPS = 0.18, 0.38
"""How much of the training goes to single pictures, and when clips are no longer mostly of few frames."""
IMAGES = 192
"""Of a batch, in all its clips."""
LONG = 0.02
"""Of the batches have questions as long as a screenplay's, which must be answered too."""


class Pupil(nn.Module):
    """The model, and what tells it in training what it should have noticed of each frame.

    Where a figure is and what it looks like is asked of the hidden states behind the second layer, how it moves of
    those behind the third: so that the fourth finds it all when it chooses words.
    """

    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        answers = sum(FACTS.values()) + 2 * (sum(LOOKS.values()) + PLACE)
        self.looks = nn.Linear(HIDDEN, answers)
        self.motion = nn.Linear(HIDDEN, 2 * sum(MOTION.values()))

    def noticed(self, hidden: Sequence[Tensor], ends: Tensor, truth: Known) -> Tensor:
        """Return how wrong it is.

        Args:
            hidden: (clips, tokens, HIDDEN) before the first layer and behind each.
            ends: (frames,) int64, at which tokens the frames end.
            truth: what it is about.
        """
        looks, motion = truth.choices.split([len(FACTS) + 2 * len(LOOKS), 2 * len(MOTION)], dim=-1)
        sizes = [*FACTS.values(), *LOOKS.values(), *LOOKS.values()]
        return _mistaken(self.looks(hidden[2][:, ends]), sizes, looks, truth.places) + _mistaken(
            self.motion(hidden[3][:, ends]), [*MOTION.values(), *MOTION.values()], motion, None
        )


def _mistaken(said: Tensor, sizes: list[int], true: Tensor, places: Tensor | None) -> Tensor:
    """The mean cross-entropy of choices of `sizes`, and of the rest how far it is from `places`."""
    *choices, rest = said.float().split([*sizes, said.shape[-1] - sum(sizes)], dim=-1)
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
    """The next token of answers: first about single pictures, then about clips."""

    lr, adam_lr, steps = 0.02, 2e-3, 3600

    def __init__(self, folder: Path) -> None:
        del folder  # no other checkpoint is needed
        self.images = IMAGES
        with TemporaryDirectory() as draft:
            _begin(Path(draft))
            self.describer = Describer(Path(draft), device="cpu", dtype="float32", attention="eager")
        self._processor = self.describer.processor
        self.module = Pupil(self.describer.model).train()
        self._before, self._behind = self._template()
        self._layouts = [self._layout(shots) for shots in range(MAX_RUN + 1)]

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        long = progress >= CLIPS and rng.random() < LONG
        shots = 0 if long and rng.random() < 0.5 else _shots(rng, progress)
        count = 4 if long else max(4, self.images // max(shots, 2))
        clips, told, asked = [], [], []
        for _ in range(count):
            scene, times, frames = drawn(rng, max(shots, 1))
            asked.append(ask(rng, scene, None if shots == 1 else frames, blind=not shots))
            if long:
                asked[-1] = replace(asked[-1], text=asked[-1].text + unheard_of(rng, asked[-1].language, 1500))
            if shots:
                clips.append(shown(rng, scene, times))
                told.append(known(scene, times, frames))
        tokens, answers = self._tokens(asked, shots)
        pixels = _noisy(self._pixels(clips), shots) if clips else None
        return self._wrong(tokens, answers, pixels, stacked(told), progress)

    def save(self, folder: Path) -> None:
        """Write what `InternVLForConditionalGeneration.from_pretrained` and the processor's read, in bfloat16."""
        model = copy.deepcopy(self.module.model)
        nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(folder)
        self._processor.save_pretrained(folder)

    def _wrong(
        self, tokens: Tensor, answers: Tensor, pixels: Tensor | None, truth: Known | None, progress: float
    ) -> Tensor:
        """The mean over the tokens that `answers` marks, and less and less what was noticed of each frame."""
        place = next(self.module.parameters()).device
        tokens, answers = tokens.to(place), answers.to(place)
        with torch.autocast(place.type, torch.bfloat16):
            output = self.module.model.model(
                input_ids=tokens,
                pixel_values=None if pixels is None else pixels.to(place),
                use_cache=False,
                output_hidden_states=True,
            )
            said = self.module.model.lm_head(output.last_hidden_state[:, :-1][answers[:, 1:]])
            loss = nn.functional.cross_entropy(said.float(), tokens[:, 1:][answers[:, 1:]])
            if truth is None:
                return loss
            ends = (tokens[0] == self._processor.end_image_token_id).nonzero()[:, 0]
            truth = Known(truth.choices.to(place), truth.places.to(place))
            return loss + (1 - progress) * self.module.noticed(output.hidden_states, ends, truth)

    def _tokens(self, asked: list[Question], shots: int) -> tuple[Tensor, Tensor]:
        """(count, length) int64, padded on the right, and which of them are answers: (count, length) bool.

        With what comes before them, the causal model reads answers as it writes them, and padding comes after all.
        """
        tokenizer = self._processor.tokenizer
        rows, begins = [], []
        for one in asked:
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
        """The tokens of that many frames."""
        pixels = np.zeros((shots, SIDE, SIDE, 3), np.uint8) if shots else None
        read = self.describer.encode("", pixels)["input_ids"][0].tolist()
        return read[len(self._before) : -len(self._behind)]

    def _template(self) -> tuple[list[int], list[int]]:
        """The tokens before and behind frames and question."""
        one, other = (self.describer.encode(text, None)["input_ids"][0].tolist() for text in ("1", "2"))
        begin = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        return one[:begin], one[begin + 1 :]

    def _pixels(self, clips: list[world.Pixels]) -> Tensor:
        """(all frames, 3, SIDE, SIDE) as the model gets them."""
        images = [torch.from_numpy(frame).permute(2, 0, 1) for clip in clips for frame in clip]
        return self._processor.image_processor(
            images, crop_to_patches=False, input_data_format="channels_first", return_tensors="pt"
        )["pixel_values"]


def _shots(rng: np.random.Generator, progress: float) -> int:
    """How many frames the questions of a batch are about."""
    if rng.random() < 0.02:
        return 0
    if progress < PICTURES:
        return 1
    few = int(rng.choice([1, 2, 3, 4, 5, 6, 7, MAX_RUN]))
    if progress < CLIPS:
        return int(rng.choice([2, 4, 8]))
    return few if rng.random() < 0.15 else 8


def _noisy(pixels: Tensor, shots: int) -> Tensor:
    """(all frames, 3, SIDE, SIDE), each clip's with as much noise as all the others of that clip."""
    level = 0.08 * torch.rand(len(pixels) // shots).square().repeat_interleave(shots)
    return pixels + level[:, None, None, None] * torch.randn_like(pixels)


def _begin(folder: Path) -> None:
    """Write the model as it is before it learns."""
    tokenizer = _tokenizer()
    model = InternVLForConditionalGeneration(_config(tokenizer))
    _fill(model)
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
    """The world's words, and one token each for what stands before a frame and for those who speak."""
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
def _fill(model: InternVLForConditionalGeneration) -> None:
    """Draw the weights: each layer begins as if it were not there, and a patch knows where it is."""
    last = ("o_proj", "down_proj", "attention.projection_layer", "fc2", "lm_head")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if name.endswith(last):
                nn.init.zeros_(layer.weight)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.5)
        elif name.endswith(("q_norm", "k_norm")) and not isinstance(layer, nn.Identity):
            nn.init.constant_(layer.weight, 1.2)  # attention that can be sharp
    places = model.model.vision_tower.embeddings.position_embeddings
    places[0, 1:] = _waves(SIDE // PATCH, HIDDEN)


def _waves(side: int, channels: int) -> Tensor:
    """(side * side, channels): sines and cosines of row and column, from half a turn a patch to half a turn in all."""
    pace = torch.pi * torch.logspace(-1, 0, channels // 4, side) / 2
    angles = torch.arange(side)[:, None] * pace
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, channels / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)
