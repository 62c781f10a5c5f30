"""What a request to InternVL costs."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import BYTES, Cost, Job, Jobs, Phase, count_encoder, find_config, find_part, make_jobs
from services.internvl.request import DescribeRequest
from services.internvl.settings import InternVLSettings

USUAL_FRAMES = 8
PROMPT_TOKENS = 216
"""Tokens of a prompt, with the names of its frames."""


def estimate_cost(checkpoint: Checkpoint, settings: InternVLSettings, job: Job[DescribeRequest]) -> Cost:
    """Return the cost of a request with `job.pictures` frames and an answer of the largest allowed length."""
    request = job.request
    part = find_part(checkpoint, "")
    dtype = part.dtype if settings.dtype == "auto" else settings.dtype
    config = find_config(checkpoint, "")
    reader, viewer = config["text_config"], config["vision_config"]
    size = viewer["image_size"][0] // viewer["patch_size"][0]
    seen = count_encoder(viewer, size**2 + 1) * job.pictures
    tokens = PROMPT_TOKENS + job.pictures * config["image_seq_length"]
    total = tokens + request.max_new_tokens
    shared = reader["num_key_value_heads"] * reader["head_dim"]
    cache = 2.0 * reader["num_hidden_layers"] * total * shared * BYTES[dtype]
    read = tokens * reader["intermediate_size"] * 10.4 * BYTES[dtype]
    each = count_encoder(reader, 1) + 2.0 * reader["vocab_size"] * reader["hidden_size"]
    phases = (
        Phase("", 1, seen + count_encoder(reader, tokens), read + cache),
        Phase("", request.max_new_tokens, each, cache, streams=True),
    )
    work = f"{job.pictures} frames and {request.max_new_tokens} new tokens"
    return Cost(phases, "", work, {"": dtype})


def list_jobs(_checkpoint: Checkpoint, settings: InternVLSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    frames = min(USUAL_FRAMES, settings.max_frames), settings.max_frames
    return make_jobs(DescribeRequest, settings.limits, defaults, pictures=frames)
