"""What every diffusers pipeline does with its device: finding it, moving there, and saying what went wrong on it.

Beside the models' own files this is the only one that imports torch.
"""

import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers

from services.errors import ConfigError, DeviceFailed, ModelFailed
from services.levers import Offload


def quiet() -> None:
    """Draw no bars: in a log they are noise, and both libraries draw them while they load."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def find_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first GPU if there is one, else the CPU. Raises ConfigError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device: {name} is not here ({error})", param="device") from error


def explain_failure(error: RuntimeError, task: str, advice: str) -> ModelFailed | None:
    """Say what of the error tree `error` is, if torch raised it because of the device.

    Args:
        error: what torch raised.
        task: what there was too little memory for.
        advice: what to ask for instead.
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return ModelFailed(f"the GPU has too little memory for {task}: {advice}")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return DeviceFailed("the GPU has failed; the replica will be replaced")
    return None


@contextmanager
def report_device_errors(task: str, advice: str, release: Callable[[], object] | None = None) -> Generator[None]:
    """Raise in the project's errors what the device raises in torch's, and give its memory back.

    Args:
        task: what there may be too little memory for, e.g. `64x48 pixels and 9 frames`.
        advice: what to ask for instead.
        release: called at the end of the block, however it ends: brings a pipeline that an exception has left into a
            state in which it can be called again.

    Raises:
        ModelFailed: out of memory; the next request may fit.
        DeviceFailed: any other error of the device, after which CUDA does nothing more for this process.
    """
    try:
        try:
            yield
        finally:
            if release is not None:
                release()
    except RuntimeError as error:
        failed = explain_failure(error, task, advice)
        if failed is None:
            raise
        _clear_frames(error)
        torch.cuda.empty_cache()
        raise failed from None


def _clear_frames(error: BaseException) -> None:
    """Let go of the tensors that filled the memory: the frames in the traceback hold on to them."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__context__


def finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor. Raises ModelFailed when a number in it is not one."""
    if not torch.isfinite(tensor).all():
        raise ModelFailed("the model made numbers that are not finite")
    return tensor


def set_attention(models: Iterable[Any], backend: str | None) -> None:
    """Let transformers of diffusers use an attention backend by its name. Raises ConfigError."""
    if backend is None:
        return
    for model in models:
        try:
            model.set_attention_backend(backend)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"attention: {error}", param="attention") from error


def place(pipe: Any, device: torch.device, offload: Offload, *, in_order: bool) -> None:
    """Put a diffusers pipeline on the device. The VAE stays there: its decoder is called past the offload hooks.

    Args:
        pipe: the pipeline; its `model_cpu_offload_seq` ends with the VAE.
        device: where it computes.
        offload: what waits elsewhere.
        in_order: whether every pass calls the same layers in the same order, so that they can be fetched ahead.

    Raises:
        ConfigError: there is nothing to offload from.
    """
    if offload != "none" and device.type == "cpu":
        raise ConfigError(f"offload: {offload} needs a GPU, and the device is the CPU", param="offload")
    pipe._exclude_from_cpu_offload = ["vae"]
    if offload == "none":
        pipe.to(device)
    elif offload == "model":
        pipe.model_cpu_offload_seq = pipe.model_cpu_offload_seq.removesuffix("->vae")
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=in_order, exclude_modules=["vae"]
        )
