"""What a request to Qwen-Image-Edit costs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    Convolutions,
    Cost,
    Job,
    Jobs,
    Phase,
    count_encoder,
    count_joint_blocks,
    describe_size,
    find_config,
    make_jobs,
)
from services.qwen_edit.request import MAX_PICTURES, EditRequest, Guidance
from services.qwen_edit.settings import QwenEditSettings

PROMPT_TOKENS = 64
"""Tokens of a prompt beside its pictures; longer prompts cost little more."""
DECODER = Convolutions(96, 687.9e6, 384, 110_800)
ENCODER = Convolutions(96, 426.0e6, 384, 62_000)
STILL = Convolutions(96, 174.5e6, 128, 343_200)
"""The decoder of a single frame with all activations stored, as guidance differentiates it."""
RECOMPUTED = 0.59
"""Part of the activations that gradient checkpointing stores."""


def estimate_cost(checkpoint: Checkpoint, settings: QwenEditSettings, job: Job[EditRequest]) -> Cost:
    """Return the cost of a request. `job.pictures` counts all pictures that the model sees."""
    request = job.request
    config = find_config(checkpoint, "transformer")
    base = int(find_config(checkpoint, "vae")["base_dim"])
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = (job.area + job.pictures * settings.reference_area) // 256
    text = PROMPT_TOKENS + job.pictures * settings.condition_area // 784
    guided = 2 if request.true_cfg_scale > 1 else 1
    held = 14.8 * (tokens + text) * width * BYTES[settings.dtype]
    size, seen = BYTES[settings.dtype], settings.reference_area // 64
    phases = (
        _see(checkpoint, settings, job.pictures, text, guided),
        Phase("vae", job.pictures, ENCODER.count(seen, base), ENCODER.hold(seen, base, size)),
        Phase("transformer", request.steps * guided, count_joint_blocks(config, tokens, text), held),
        _guide(request.ttlg, request.steps, settings, job.area // 64, base),
        Phase("vae", 1, DECODER.count(job.area // 64, base), DECODER.hold(job.area // 64, base, size)),
    )
    precision = {part.name: settings.dtype for part in checkpoint.components}
    work = f"{describe_size(job.area)} and {job.pictures} pictures to see"
    return Cost(phases, "transformer", work, precision)


def _see(checkpoint: Checkpoint, settings: QwenEditSettings, pictures: int, text: int, passes: int) -> Phase:
    """Return the phase of Qwen2.5-VL, which reads the prompt and its pictures."""
    config: Mapping[str, Any] = find_config(checkpoint, "text_encoder")
    reader, viewer = config["text_config"], config["vision_config"]
    patches = pictures * settings.condition_area // 196
    flop = count_encoder(reader, text) + 2.0 * text * reader["vocab_size"] * reader["hidden_size"]
    seen = count_encoder({**viewer, "num_attention_heads": viewer["num_heads"]}, patches)
    logits = text * reader["vocab_size"] * 6.0
    return Phase("text_encoder", passes, flop + seen, logits + 4.0 * text * reader["intermediate_size"] * 2)


def _guide(ttlg: Guidance, steps: int, settings: QwenEditSettings, latents: int, base: int) -> Phase:
    """Return the phase of the guidance updates: the decoder, forward and backward, after each guided step."""
    if not ttlg.on:
        return Phase("vae", 0, 0.0, 0.0)
    end = steps - 1 if ttlg.end_step is None else min(ttlg.end_step, steps - 1)
    start = max(ttlg.start_step, steps - (ttlg.last_steps or steps))
    updates = ttlg.inner_steps * max(0, -(-(end - start + 1) // ttlg.every))
    held = STILL.hold(latents, base, BYTES[settings.decoder_dtype or settings.dtype])
    if settings.save_memory:
        held *= RECOMPUTED
    passes = 4 if settings.save_memory else 3  # forward, again if it is not stored, and backward at twice the work
    return Phase("vae", updates, passes * STILL.count(latents, base), held)


def list_jobs(_checkpoint: Checkpoint, settings: QwenEditSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    jobs = make_jobs(EditRequest, settings.limits, defaults, {"true_cfg_scale": 4.0}, (2, MAX_PICTURES))
    guided = Guidance(inner_steps=settings.max_inner_steps)
    return Jobs(jobs.default, replace(jobs.largest, request=jobs.largest.request.model_copy(update={"ttlg": guided})))
