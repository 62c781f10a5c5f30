"""Inference with InternVL3.5: pixels and a question are encoded as tokens; the answer is decoded token by token.

Source: https://huggingface.co/OpenGVLab/InternVL3_5-8B-HF (the repository in transformers' layout) and
https://arxiv.org/abs/2508.18265. Frames go through the image processor, not the video processor: the video
configuration of the 3.5 repositories differs from the model's training in size and normalisation statistics.
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
from services.weights.completeness import check_network
from services.weights.local import resolve

END_OF_MESSAGE = "<|im_end|>"
"""Token that ends a message in InternVL's chat template."""
_PROMPT = "\ufdd0"
"""Placeholder for the prompt while the chat template is rendered: a Unicode noncharacter."""


class Describer:
    """A loaded checkpoint. Not thread-safe.

    Args:
        folder: a checkpoint in the layout of `InternVLForConditionalGeneration.save_pretrained`.
        device: a torch device, or `auto`: the GPU if available.
        dtype: a torch dtype's name, or `auto`: the dtype the checkpoint was saved in.
        attention: transformers' `attn_implementation`; None lets it choose.

    Raises:
        ConfigError: the folder is not a complete InternVL checkpoint, or the device does not exist.
    """

    def __init__(
        self, folder: Path, *, device: str = "auto", dtype: str = "auto", attention: str | None = None
    ) -> None:
        transformers.utils.logging.disable_progress_bar()  # progress bars clutter the log
        place = find_device(device)
        try:
            check_network(folder, InternVLForConditionalGeneration)
            self.processor = InternVLProcessor.from_pretrained(folder)
            self.model, report = InternVLForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, device_map=place, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"weights: {folder} cannot be loaded as InternVL ({error})", param="weights") from error
        if report["missing_keys"]:  # transformers initialises them at random and only logs it
            missing = sorted(report["missing_keys"])
            raise ConfigError(f"weights: {folder} lacks {len(missing)} weights, e.g. {missing[0]}", param="weights")
        self._before, self._after = self._template()
        self._ends = self._find_ends()
        self.context_length: int = self.model.config.text_config.max_position_embeddings
        """Maximum number of tokens of prompt, frames and answer together."""

    @classmethod
    def load(cls, settings: InternVLSettings, home: Path) -> Self:
        """Load the configured weights; download them to `home` if they are not there yet."""
        folder = resolve(settings.weights, home)
        return cls(folder, device=settings.device, dtype=settings.dtype, attention=settings.attention)

    def encode(self, prompt: str, pixels: Pixels | None) -> BatchFeature:
        """Return the model's inputs, on its device.

        `input_ids` and `attention_mask` are (1, length) int64; `pixel_values`, present if `pixels` are given, is
        (n, 3, size, size) float32, normalised with the checkpoint's image statistics.

        Special tokens in the prompt are encoded as plain text: `<|im_end|>` becomes ten characters.
        """
        tokenizer = self.processor.tokenizer
        frames = range(0 if pixels is None else len(pixels))
        layout = "".join(f"Frame{index + 1}: {self.processor.image_token}\n" for index in frames)
        before = self._before + layout
        if pixels is None:
            inputs = self.processor(text=before, return_tensors="pt")
        else:  # copied: Ray's arrays are read-only, and torch has no read-only tensors
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
        """Answer `prompt` by greedy decoding, so that the same inputs give the same answer.

        Args:
            prompt: any text.
            pixels: (n, h, w, 3) uint8 RGB, or None for a question about text alone.
            max_new_tokens: maximum length of the answer; a longer one is truncated.
            write: receives each piece of text once its characters are complete; the pieces joined are the answer.
            check: called once per token; an exception from it ends the generation and propagates.

        Raises:
            LimitExceeded: the prompt and the frames leave fewer than `max_new_tokens` tokens of the context.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
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
                eos_token_id=self._ends,
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

    def _find_ends(self) -> list[int]:
        """Return the tokens that end an answer: the checkpoint's, which some copies lack, and the template's."""
        configured = self.model.generation_config.eos_token_id
        ends = set(configured if isinstance(configured, list) else [configured])
        ends.add(self.processor.tokenizer.get_vocab().get(END_OF_MESSAGE))
        return sorted(ends - {None})

    def _template(self) -> tuple[str, str]:
        """Return the chat template's text before and after the user's message."""
        message = {"role": "user", "content": [{"type": "text", "text": _PROMPT}]}
        parts = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False).split(_PROMPT)
        if len(parts) != 2:
            raise ConfigError(
                "weights: the chat template must contain the message of the user exactly once", param="weights"
            )
        return parts[0], parts[1]


class TextStream(BaseStreamer):
    """Decodes tokens into pieces of text as they are generated, in the generating thread.

    A character can span several tokens; a piece is written once its last character is complete. Special tokens are
    omitted. After `end` the joined pieces equal the tokenizer's decoding of all tokens.
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
        """Receive tokens: first the prompt, (1, length) int64, then each next token, (1,) int64."""
        self._check()
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        token = int(value)
        self._ids.append(token)
        self._send(self._decode.step(self._tokenizer.backend_tokenizer, token) or "")

    def end(self) -> None:
        """Write the rest of the text, e.g. an incomplete last character."""
        self._send(self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._written :])

    def _send(self, piece: str) -> None:
        if piece:
            self._written += len(piece)
            self._write(piece)


class _Finite(LogitsProcessor):
    """Raises ModelFailed on NaN scores, e.g. after an overflow in half precision; argmax would still pick a token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (1, vocabulary) float32
        if scores.isnan().any():
            raise ModelFailed("InternVL computed numbers that are not finite; a wider dtype may help")
        return scores
