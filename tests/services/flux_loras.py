"""LoRAs for Flux with random weights."""

import torch

WIDTH = 32
QUERIES = [f"transformer_blocks.{block}.attn.to_q" for block in range(2)]
VALUES = [
    f"{kind}.{block}.attn.to_v" for kind in ("transformer_blocks", "single_transformer_blocks") for block in range(2)
]


def tensors_of(layers: list[str], rank: int, seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(rank, WIDTH, generator=random)
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(WIDTH, rank, generator=random)
    return tensors
