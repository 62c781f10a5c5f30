"""The keys of LoRA files: what a tensor is, by the end of its key."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["down", "up", "alpha", "up_bias", "weight_difference", "bias_difference"]

ENDINGS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("down", re.compile(r"\.(?:lora_down(?:\.weight)?|(?:lora\.)?down\.weight|lora_A(?:(?:\.[^.]+)?\.weight)?)$")),
    ("up", re.compile(r"\.(?:lora_up(?:\.weight)?|(?:lora\.)?up\.weight|lora_B(?:(?:\.[^.]+)?\.weight)?)$")),
    ("up_bias", re.compile(r"\.(?:lora_B(?:\.[^.]+)?\.bias|lora_up\.bias)$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("weight_difference", re.compile(r"\.(?:diff|w_norm)$")),
    ("bias_difference", re.compile(r"\.(?:diff_b|b_norm)$")),
)
MODULATION = ".diff_m"
"""End of the key of a difference of a Wan block's modulation, which is a parameter of the block itself."""
PARTNERS = (
    (".lora_down", ".lora_up"),
    (".lora.down.", ".lora.up."),
    (".down.", ".up."),
    (".lora_A", ".lora_B"),
)
"""What distinguishes the keys of the two matrices of a low-rank change."""

OTHER_KINDS = (
    ("DoRA", r"\.(?:dora_scale|lora_magnitude_vector)(?:\.|$)"),
    ("LoKr", r"\.lokr_\w+(?:\.|$)"),
    ("LoHa", r"\.hada_\w+(?:\.|$)"),
    ("GLoRA", r"\.(?:[ab][12]\.weight|glora_\w+)$"),
    ("BOFT", r"\.boft_\w+(?:\.|$)"),
    ("OFT", r"\.oft_\w+(?:\.|$)"),
    ("(IA)³", r"\.(?:ia3_l|on_input)(?:\.|$)"),
    ("VeRA", r"\.vera_lambda_\w+(?:\.|$)"),
    ("LoCon with a Tucker core", r"\.lora_mid\.weight$"),
)
"""Kinds of adapters that are not low-rank changes alone, and the ends of their keys."""

TEXT = re.compile(
    r"(?:base_model\.model\.)?(?:lora_(?:te\d?|t5|clip|text_encoder(?:_\d)?)_|text_encoders?(?:_\d)?\.|text_model\.|cond_stage_model\.|clip_[lg]\.|t5(?:xxl)?\.)"
    r"|bundle_emb\."
)
"""Beginning of the keys of text encoders and of embeddings of words."""
TEXT_PARTS = (
    ("embedding", r"bundle_emb\."),
    ("T5", r"t5|SelfAttention|DenseReluDense|encoder[._]block[._]"),
    ("CLIP-G", r"clip_g"),
    ("CLIP-L", r"clip_l|text_model|text_encoders?\.text_model|lora_clip_"),
    ("text encoder", r""),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a LoRA file."""

    text: str
    stem: str
    """Without its ending: the prefix of the file and the name of a module."""
    kind: Kind

    @property
    def ending(self) -> str:
        return self.text[len(self.stem) :]

    def find_partner(self) -> str:
        """Return the key of the other matrix of the change; `kind` is down or up."""
        pairs = PARTNERS if self.kind == "down" else [(up, down) for down, up in PARTNERS]
        mine, other = next((mine, other) for mine, other in pairs if mine in self.ending)
        return self.stem + self.ending.replace(mine, other, 1)


def parse_key(text: str) -> Key | None:
    """Return a key with its kind; None if it is not the key of a low-rank change."""
    for kind, pattern in ENDINGS:
        match = pattern.search(text)
        if match and match.start() > 0:
            return Key(text, text[: match.start()], kind)
    if text.endswith(MODULATION):
        return Key(text, f"{text.removesuffix(MODULATION)}.modulation", "weight_difference")
    return None


def name_kind(key: str) -> str | None:
    """Return the name of the kind of adapter that a key shows, if it is not a LoRA."""
    return next((name for name, pattern in OTHER_KINDS if re.search(pattern, key)), None)


def name_text_part(key: str) -> str | None:
    """Return the name of the text encoder that a key belongs to; None if it belongs to none."""
    if not TEXT.match(key):
        return None
    return next(name for name, pattern in TEXT_PARTS if re.search(pattern, key))


def quote(key: str) -> str:
    """Return a key for a message: printable, at most 120 characters."""
    shown = key if key.isprintable() else ascii(key)
    return shown if len(shown) <= 120 else f"{shown[:119]}…"
