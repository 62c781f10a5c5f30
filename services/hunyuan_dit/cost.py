"""What a request to HunyuanDiT costs."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    Cost,
    Job,
    Jobs,
    Phase,
    count_attention,
    decode_picture,
    describe_size,
    encode_picture,
    encode_text,
    find_config,
    make_jobs,
)
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.settings import HunyuanDitSettings


def estimate_cost(checkpoint: Checkpoint, settings: HunyuanDitSettings, job: Job[RestyleRequest]) -> Cost:
    """Return the cost of a request. Guidance doubles the batch of a pass."""
    request = job.request
    config = find_config(checkpoint, "transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens, text = job.area // 256, config["text_len"] + config["text_len_t5"]
    batch = 2 if request.guidance_scale > 1 else 1
    block = 2.0 * tokens * (6 + 2 * config["mlp_ratio"]) * width**2 + 4.0 * text * config["cross_attention_dim"] * width
    block += count_attention(tokens, tokens, width) + count_attention(tokens, text, width)
    skips = (config["num_layers"] // 2 - 1) * 4.0 * tokens * width**2
    held = 35.5 * batch * tokens * width * BYTES[settings.dtype]
    passes = request.steps_done
    phases = (
        encode_text(checkpoint, "text_encoder", config["text_len"], batch),
        encode_text(checkpoint, "text_encoder_2", config["text_len_t5"], batch),
        encode_picture(checkpoint, job.area, 1, settings.dtype),
        Phase("transformer", passes, batch * (config["num_layers"] * block + skips), held),
        decode_picture(checkpoint, job.area, 1, settings.dtype),
    )
    precision = {part.name: settings.dtype for part in checkpoint.components}
    return Cost(phases, "transformer", describe_size(job.area), precision)


def list_jobs(_checkpoint: Checkpoint, settings: HunyuanDitSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    return make_jobs(RestyleRequest, settings.limits, defaults, {"guidance_scale": 5.0, "strength": 1.0})
