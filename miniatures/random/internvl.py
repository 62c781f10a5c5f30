"""Writes InternVL's tiny checkpoint: real classes and layout, random weights, and a grammar.

Frames and question affect the output, but the model is untrained: the weights that choose a word are random. Only the
order of word kinds is fixed, so that the output reads as sentences.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2Tokenizer,
)

from miniatures.random import Block, Fields, WriteForm

SEED = 35
SIDE = 112
"""Side of the square to which a frame is scaled, in pixels."""
PATCH = 14
TOKENS_PER_FRAME = (SIDE // PATCH) ** 2 // 4
CONTEXT = 40_960
"""In tokens, as in the 8B checkpoint: enough for the longest prompt at one token per byte."""
HIDDEN = 64
LENGTH = 20
"""Number of tokens after which the answer stops at the next end of a sentence."""

SLOTS = {
    "article": "A One Some Every Another",
    "adjective": "bright dark quiet small golden distant slow warm young silver blue pale",
    "subject": "river child bird boat horse train cloud figure shadow crowd lantern dancer",
    "verb": "moves turns drifts rises waits glows rests shines runs walks",
    "adverb": "slowly gently quickly softly silently again",
    "preposition": "through across beside under over toward behind near",
    "determiner": "the this that its",
    "place": "street garden window forest harbour bridge tower field mountain room station shore",
    "stop": ".",
}
FOLLOWS = {
    "start": ["article"],
    "article": ["adjective", "subject"],
    "adjective": ["subject"],
    "subject": ["verb"],
    "verb": ["adverb", "preposition"],
    "adverb": ["preposition"],
    "preposition": ["determiner"],
    "determiner": ["place"],
    "place": ["stop"],
    "stop": ["article", "end"],
}
"""Kind of word → kinds that may follow. `start`: every token that is no word; `end`: the end of the answer."""

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SHORT: Fields = {"max_new_tokens": 40}
"""A request that takes a second."""
LONG: Fields = {"prompt": "z" * 4_000, "max_new_tokens": 256}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny`: Qwen3 and InternViT of 64 channels, 16 tokens per frame, a vocabulary of bytes and some words.
        folder: folder for `InternVLForConditionalGeneration.from_pretrained`.

    Raises:
        ValueError: unknown form.
    """
    if form != "tiny":
        raise ValueError(f"form: must be tiny, got {form!r}")
    transformers.utils.logging.disable_progress_bar()
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = InternVLForConditionalGeneration(_config(tokenizer))
        _fill(model, tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        exponential_decay_length_penalty=(LENGTH, 2.0),
    )
    model.save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {"weights": weights("tiny")}


def _tokenizer() -> Qwen2Tokenizer:
    """Create a tokenizer of bytes and the words of the grammar with their leading space (`Ġ` in byte-level BPE).

    Each word is built by merges of one letter at a time, so that decoding and encoding returns the same token.
    """
    symbols, merges = sorted(ByteLevel.alphabet()), []
    for word in " ".join(SLOTS.values()).split():
        for end in range(0 if word == "." else len(word)):
            merge = ("Ġ" + word[:end], word[end])
            if merge not in merges:
                merges.append(merge)
                symbols.append("".join(merge))
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS.values()]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate([*symbols, *specials])},
        merges=merges,
        eos_token="<|im_end|>",  # noqa: S106
        extra_special_tokens=IMAGE_TOKENS,
    )
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    return tokenizer


def _processor(tokenizer: Qwen2Tokenizer) -> InternVLProcessor:
    scaling = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.485, 0.456, 0.406],  # ImageNet's, as in the real checkpoints
        "image_std": [0.229, 0.224, 0.225],
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**scaling),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**scaling),
        image_seq_length=TOKENS_PER_FRAME,
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: Qwen2Tokenizer) -> InternVLConfig:
    return InternVLConfig(
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": [SIDE, SIDE],
            "patch_size": [PATCH, PATCH],
            "attention_bias": True,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=TOKENS_PER_FRAME,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _fill(model: InternVLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
    """Initialise the weights at a scale at which the frames affect the next word, not only the last word."""
    for name, weight in model.named_parameters():
        if name.endswith("q_norm.weight"):
            nn.init.constant_(weight, 6.0)  # sharp attention: averaged evenly, all pictures look alike
        elif "lambda_" in name:
            nn.init.ones_(weight)
        elif weight.ndim > 1 and "vision_tower.embeddings.position" not in name:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    _teach_grammar(model, tokenizer)


def _teach_grammar(model: InternVLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
    """Reserve one channel per kind of word, written only by the embeddings and read only by `lm_head`.

    Rows of `lm_head` are zero for tokens that are no words, so they are never chosen. The row of the end token has no
    random part, so the length penalty, which is a factor, changes it only after a full stop.
    """
    kinds = list(FOLLOWS)
    embedding = model.model.language_model.embed_tokens.weight  # (vocabulary, channels)
    head = model.lm_head.weight  # (vocabulary, channels)
    for layer in model.model.language_model.layers:
        layer.self_attn.o_proj.weight[: len(kinds)] = 0
        layer.mlp.down_proj.weight[: len(kinds)] = 0
    kind_of = {tokenizer.eos_token_id: "end"}
    for kind, words in SLOTS.items():
        kind_of |= {tokenizer.convert_tokens_to_ids(_symbol(word)): kind for word in words.split()}
    embedding[:, : len(kinds)] = 0
    for token in range(len(tokenizer)):
        kind = kind_of.get(token, "start")
        if kind != "end":
            embedding[token, kinds.index(kind)] = 2.0
        head[token] *= 0.0 if kind in ("start", "end") else 0.5
        head[token, : len(kinds)] = torch.tensor([10.0 if kind in FOLLOWS[before] else 0.0 for before in kinds])


def _symbol(word: str) -> str:
    return word if word == "." else "Ġ" + word
