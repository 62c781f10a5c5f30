"""What a request to Flux costs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    Cost,
    Job,
    Jobs,
    Phase,
    count_joint_blocks,
    decode_picture,
    describe_size,
    encode_text,
    find_config,
    make_jobs,
)
from services.flux.request import FluxRequest
from services.flux.settings import FluxSettings

CLIP_TOKENS = 77
CONTROL_PASS = 0.23
"""Operations of InfuseNet, 4 double and 10 single blocks, relative to the transformer's 57 blocks."""
IDENTITY_WEIGHTS = 2_952_654_336 + 84_595_968
"""Weights of InfuseNet and of the projection of the face."""


def estimate_cost(checkpoint: Checkpoint, settings: FluxSettings, job: Job[FluxRequest]) -> Cost:
    """Return the cost of a request; with a face, each pass also runs InfuseNet."""
    request = job.request
    config = find_config(checkpoint, "transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens, text = job.area // 256, settings.max_sequence_length
    guided = 2 if request.true_cfg_scale > 1 else 1
    flop = count_joint_blocks(config, tokens, text)
    held = 17.4 * (tokens + text) * width * BYTES[settings.dtype]
    if job.face:
        flop *= 1 + CONTROL_PASS
        held += 14 * tokens * width * BYTES[settings.dtype]  # what its blocks add to the transformer's
    phases = (
        encode_text(checkpoint, "text_encoder", CLIP_TOKENS, guided),
        encode_text(checkpoint, "text_encoder_2", text, guided),
        Phase("transformer", request.n * request.steps * guided, flop, held),
        decode_picture(checkpoint, job.area, request.n, settings.dtype),
    )
    precision = {part.name: settings.dtype for part in checkpoint.components}
    pictures = f"{request.n} pictures of " if request.n > 1 else ""
    resident = {} if settings.identity is None else {"identity": IDENTITY_WEIGHTS * BYTES[settings.dtype]}
    return Cost(phases, "transformer", pictures + describe_size(job.area), precision, resident)


def list_jobs(_checkpoint: Checkpoint, settings: FluxSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    jobs = make_jobs(FluxRequest, settings.limits, defaults, {"true_cfg_scale": 4.0})
    return Jobs(jobs.default, replace(jobs.largest, face=settings.identity is not None))
