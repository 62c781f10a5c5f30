"""Turns a folder that this version of the libraries saved into one as the repositories publish it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.torch import load_file, save_file
from torch import Tensor

SENTENCES = (
    "a red star on a white background",
    "the quick brown fox jumps over the lazy dog",
    "a blue circle, moving left! what: is (this)?",
)


def edit_json(file: Path, **changes: Any) -> None:
    """Set members of a JSON object; `...` removes one."""
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kept = {name: value for name, value in (content | changes).items() if value is not ...}
    file.write_text(json.dumps(kept))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Rewrite the one weights file of a component."""
    (file,) = folder.glob("*.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file, {"format": "pt"})


def list_names(folder: Path) -> list[str]:
    """Return the names of the tensors in the one weights file of a component."""
    (file,) = folder.glob("*.safetensors")
    return list(load_file(file))


def rename_prefixes(folder: Path, *pairs: tuple[str, str]) -> None:
    """Rename the tensors of a component; of the pairs (prefix, published prefix) the first that fits counts.

    Names that begin with a published prefix already stay as they are.
    """

    def rename(name: str) -> str:
        if any(name.startswith(published) for _, published in pairs if published):
            return name
        for prefix, published in pairs:
            if name.startswith(prefix):
                return published + name.removeprefix(prefix)
        return name

    edit_tensors(folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})


def keep_one_embedding(folder: Path, name: str) -> None:
    """Keep a T5's embedding under one of its two names only."""
    names = {"shared.weight", "encoder.embed_tokens.weight"}

    def choose(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        (embedding,) = {key: tensors[key] for key in sorted(names & set(tensors), reverse=True)[:1]}.values()
        return {key: tensor for key, tensor in tensors.items() if key not in names} | {name: embedding}

    edit_tensors(folder, choose)


def shard_tensors(folder: Path) -> None:
    """Split the weights file of a component into three, with an index, as large networks are published."""
    (file,) = folder.glob("*.safetensors")
    tensors, places = load_file(file), dict[str, str]()
    for number in range(3):
        name = f"{file.stem}-{number + 1:05}-of-00003.safetensors"
        part = dict(list(tensors.items())[number::3])
        save_file(part, folder / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / f"{file.name}.index.json").write_text(json.dumps(index))
    file.unlink()


def name_variant(folder: Path, variant: str) -> None:
    """Rename all weights files below `folder` to those of a variant: `model.safetensors` → `model.fp16.safetensors`."""
    for file in sorted(folder.glob("*/*.safetensors")):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def write_sentencepiece(folder: Path, tokenizer_class: str) -> sentencepiece.SentencePieceProcessor:
    """Replace a tokenizer by `spiece.model` and the configuration of a slow T5 tokenizer; return the model."""
    clear(folder)
    file = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 50),
        model_prefix=str(file),
        vocab_size=45,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    file.with_suffix(".vocab").unlink()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    edit_json(folder / "special_tokens_map.json", **special)
    edit_json(
        folder / "tokenizer_config.json",
        **special,
        additional_special_tokens=[],
        extra_ids=0,
        legacy=True,
        sp_model_kwargs={},
        clean_up_tokenization_spaces=True,
        model_max_length=10**30,
        tokenizer_class=tokenizer_class,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(file.with_suffix(".model")))


def write_clip_vocabulary(folder: Path) -> None:
    """Replace a CLIP tokenizer by `vocab.json` and `merges.txt`."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    clear(folder)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special: dict[str, str] = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    special["bos_token"] = "<|startoftext|>"
    edit_json(folder / "special_tokens_map.json", **special)
    edit_json(
        folder / "tokenizer_config.json",
        **special,
        add_prefix_space=False,
        errors="replace",
        do_lower_case=True,
        model_max_length=77,
        tokenizer_class="CLIPTokenizer",
    )


def write_bert_vocabulary(folder: Path) -> None:
    """Replace a BERT tokenizer by `vocab.txt`."""
    vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    clear(folder)
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    edit_json(
        folder / "tokenizer_config.json",
        cls_token="[CLS]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        do_basic_tokenize=True,
        do_lower_case=True,
        model_max_length=77,
        tokenize_chinese_chars=True,
        tokenizer_class="BertTokenizer",
    )


def clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
