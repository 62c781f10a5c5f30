"""How InternVL3.5 runs: pixels and a question become tokens, and tokens come back as text, one by one.

Source: https://huggingface.co/OpenGVLab/InternVL3_5-8B-HF (the repository in the layout of transformers) and
https://arxiv.org/abs/2508.18265. Frames go through the image processor, not the video processor: the video
configuration of the 3.5 repositories has another size and other statistics than the model was trained with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
import transformers
from tokenizers.decoders import DecodeStream
from transformers import (
    BatchFeature,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
)
from transformers.generation.streamers import BaseStreamer

from services.device import find_device, report_device_errors
from services.errors import ConfigError, LimitExceeded, ModelFailed
from services.frames import Pixels
from services.internvl.settings import InternVLSettings
from services.weights.local import resolve

_PROMPT = "\ufdd0"
"""Stands for the prompt while the chat template is rendered: a code point that Unicode keeps free of meaning."""


class Describer:
    """One loaded checkpoint. Not for two threads at a time.

    Args:
        folder: a checkpoint in the layout of `InternVLForConditionalGeneration.save_pretrained`.
        device: a torch device, or `auto`: the GPU where there is one.
        dtype: a torch dtype's name, or `auto`: the dtype the checkpoint was saved in.
        attention: transformers' `attn_implementation`; None lets it choose.

    Raises:
        ConfigError: the folder is not an InternVL checkpoint or lacks some of its weights, or there is no such device.
    """

    def __init__(
        self, folder: Path, *, device: str = "auto", dtype: str = "auto", attention: str | None = None
    ) -> None:
        transformers.utils.logging.disable_progress_bar()  # bars in a log are noise
        place = find_device(device)
        try:
            self.processor = InternVLProcessor.from_pretrained(folder)
            self.model, report = InternVLForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, device_map=place, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"weights: {folder} cannot be loaded as InternVL ({error})", param="weights") from error
        if report["missing_keys"]:  # transformers fills them with random numbers, and says so only in its log
            missing = sorted(report["missing_keys"])
            raise ConfigError(f"weights: {folder} lacks {len(missing)} weights, e.g. {missing[0]}", param="weights")
        self._before, self._after = self._template()
        self.context_length: int = self.model.config.text_config.max_position_embeddings
        """Tokens of prompt, frames and answer together."""

    @classmethod
    def load(cls, settings: InternVLSettings, home: Path) -> Self:
        """Load the weights that the settings name, downloaded under `home` where they are not there yet."""
        folder = resolve(settings.weights, home)
        return cls(folder, device=settings.device, dtype=settings.dtype, attention=settings.attention)

    def encode(self, prompt: str, pixels: Pixels | None) -> BatchFeature:
        """Return what the model reads, on its device.

        `input_ids` and `attention_mask` are (1, length) int64; `pixel_values`, where there are pixels, is
        (n, 3, size, size) float32, normalised with the checkpoint's image statistics.

        The prompt never meets the parser that knows the special tokens: `<|im_end|>` in it is ten characters of text.
        """
        tokenizer = self.processor.tokenizer
        frames = range(0 if pixels is None else len(pixels))
        layout = "".join(f"Frame{index + 1}: {self.processor.image_token}\n" for index in frames)
        before = self._before + layout
        if pixels is None:
            inputs = self.processor(text=before, return_tensors="pt")
        else:  # copied: Ray's arrays are read-only, and torch has no such tensors
            images = [torch.tensor(frame).permute(2, 0, 1) for frame in pixels]  # (3, h, w) uint8
            inputs = self.processor(
                text=before,
                images=images,
                images_kwargs={"crop_to_patches": False, "input_data_format": "channels_first"},
                return_tensors="pt",
            )
        rest = [
            *tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True),
            *tokenizer.encode(self._after, add_special_tokens=False, split_special_tokens=False),
        ]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([rest])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return inputs.to(self.model.device)

    def describe(
        self,
        prompt: str,
        pixels: Pixels | None,
        max_new_tokens: int,
        write: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        """Answer `prompt`, greedily, so that the same question about the same pixels has the same answer.

        Args:
            prompt: any text.
            pixels: (n, h, w, 3) uint8 RGB, or None for a question about text alone.
            max_new_tokens: where the answer is cut off.
            write: takes each piece of text as soon as it is whole characters; joined, the pieces are the answer.
            check: called once a token; what it raises ends the generation and is raised here.

        Raises:
            LimitExceeded: prompt and frames do not leave `max_new_tokens` of the model's context.
            ModelFailed: the device is out of memory, or the model computes numbers that are not finite.
            DeviceFailed: the device cannot be used again by this process.
        """
        check()
        with report_device_errors("this question", "ask about fewer frames or with a shorter text"):
            inputs = self.encode(prompt, pixels)
            self._check_length(inputs["input_ids"].shape[1], max_new_tokens)
            self.model.generate(
                **inputs,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([_Finite()]),
                streamer=TextStream(self.processor.tokenizer, write, check),
            )

    def _check_length(self, length: int, max_new_tokens: int) -> None:
        if length + max_new_tokens > self.context_length:
            raise LimitExceeded(
                f"prompt: with its frames it has {length} tokens, which together with max_new_tokens={max_new_tokens} "
                f"exceeds the model's context of {self.context_length} tokens",
                param="prompt",
            )

    def _template(self) -> tuple[str, str]:
        """Return what the chat template writes before and after what a user says."""
        message = {"role": "user", "content": [{"type": "text", "text": _PROMPT}]}
        parts = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False).split(_PROMPT)
        if len(parts) != 2:
            raise ConfigError("weights: the chat template must write what a user says exactly once", param="weights")
        return parts[0], parts[1]


class TextStream(BaseStreamer):
    """Turns tokens into pieces of text, in the thread that generates them.

    A character can take several tokens; a piece is written when its last character is whole. Special tokens are left
    out. After `end` the pieces joined are what the tokenizer decodes from all the tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, write: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._write = write
        self._check = check
        self._decode = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._written = 0
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Take the (1, length) int64 prompt at first, then (1,) int64, the next token."""
        self._check()
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        token = int(value)
        self._ids.append(token)
        self._send(self._decode.step(self._tokenizer.backend_tokenizer, token) or "")

    def end(self) -> None:
        """Write what is left of a character that was cut off."""
        self._send(self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._written :])

    def _send(self, piece: str) -> None:
        if piece:
            self._written += len(piece)
            self._write(piece)


class _Finite(LogitsProcessor):
    """Half precision overflows silently: the largest of numbers that are not numbers is a token like any other."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (1, vocabulary) float32
        if scores.isnan().any():
            raise ModelFailed("InternVL computed numbers that are not finite; a wider dtype may help")
        return scores
