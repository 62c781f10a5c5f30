"""Tokenizers for the vocabulary of the world, and their embeddings."""

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    T5Tokenizer,
)

from miniatures.grammar import FACE_WORDS, WORDS, vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'-"


def t5_tokenizer() -> T5Tokenizer:
    """Create a tokenizer with one piece per word; other words are split into letters, other characters are unknown."""
    words = dict.fromkeys(f"\u2581{word}" if word.isascii() and word.isalpha() else word for word in vocabulary())
    known = set(words)
    letters = [c for c in LETTERS if c not in known]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    return T5Tokenizer(vocab=[*pieces, *((w, -2.0) for w in words), *((c, -9.0) for c in letters)], extra_ids=0)


def clip_tokenizer() -> CLIPTokenizer:
    """Create a byte-pair tokenizer with merges for the English words. The end has the highest id, as in CLIP."""
    symbols = [*sorted(ByteLevel.alphabet()), *(f"{c}</w>" for c in sorted(ByteLevel.alphabet()))]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(w.lower() for w in vocabulary() if w.isascii() and w.isalpha() and len(w) > 1):
        for end in range(1, len(word)):
            merge = (word[:end], word[end] + ("</w>" if end == len(word) - 1 else ""))
            if merge not in merges:
                merges.append(merge)
                symbols.append("".join(merge))
    symbols = list(dict.fromkeys([*symbols, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=merges, model_max_length=77)


def bert_tokenizer(model_max_length: int = 77) -> BertTokenizer:
    """Create a tokenizer of English words and Chinese characters, like BERT's."""
    chinese = dict.fromkeys("".join(w for w in vocabulary() if not w.isascii()))
    english = dict.fromkeys(w.lower() for w in vocabulary() if w.isascii())
    letters = LETTERS.lower()
    symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *english, *chinese, *letters, *("##" + c for c in letters)]
    unique = dict.fromkeys(symbols)
    return BertTokenizer(vocab={s: i for i, s in enumerate(unique)}, model_max_length=model_max_length)


def qwen_tokenizer(specials: list[str], **named: object) -> Qwen2Tokenizer:
    """Create a byte-level tokenizer of English words with their leading space, and Chinese characters.

    Each word is built by merges of one letter at a time, so that decoding and encoding returns the same tokens.
    """
    byte_of = _byte_symbols()
    symbols, merges = sorted(ByteLevel.alphabet()), []
    english = [w for w in vocabulary() if w.isascii() and w.isalpha()]
    chains = ["\u0120" + w for w in english] + [w for w in english if w[0].isupper()]
    chains += ["".join(byte_of[b] for b in c.encode()) for w in vocabulary() if not w.isascii() for c in w]
    for chain in dict.fromkeys([*chains, "an"]):  # last: inside words, their own merges must come first
        for end in range(1, len(chain)):
            merge = (chain[:end], chain[end])
            if merge not in merges:
                merges.append(merge)
                symbols.append("".join(merge))
    vocab = {symbol: index for index, symbol in enumerate([*dict.fromkeys(symbols), *specials])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, **named)
    tokenizer.add_tokens([AddedToken(special, special=True) for special in specials])
    return tokenizer


def _byte_symbols() -> dict[int, str]:
    """Return byte-level BPE's character for each byte: printable ones are themselves, others follow after U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


@torch.no_grad()
def share_meanings(tokenizer: PreTrainedTokenizerBase, embedding: nn.Embedding) -> None:
    """Initialise an English word and its Chinese translation to the same vector where both are single tokens."""
    for english, chinese in (WORDS | FACE_WORDS).items():
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (f"\u2581{english}", chinese)]
        if tokenizer.unk_token_id not in ids:
            embedding.weight[ids[1]] = embedding.weight[ids[0]]
