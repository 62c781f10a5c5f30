"""Devices of diffusers pipelines: lookup, placement and errors.

Only the modules of models and a few shared ones, such as this one, import torch.
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
    """Disable the progress bars that diffusers and transformers print while they load: they clutter the log."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def find_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is the first GPU, or the CPU if there is no GPU. Raises ConfigError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device: {name} is not available ({error})", param="device") from error


def explain_failure(error: RuntimeError, task: str, advice: str) -> ModelFailed | None:
    """Convert a device error of torch to an error of this project; return None for any other error.

    Args:
        error: the error that torch raised.
        task: the work that needs the memory, e.g. `64x48 pixels and 9 frames`.
        advice: what to change in the request.
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return ModelFailed(f"the GPU has too little memory for {task}: {advice}")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return DeviceFailed("the GPU has failed; the replica will be replaced")
    return None


@contextmanager
def report_device_errors(task: str, advice: str, release: Callable[[], object] | None = None) -> Generator[None]:
    """Convert device errors of torch to errors of this project, and release the device memory.

    Args:
        task: the work that needs the memory, e.g. `64x48 pixels and 9 frames`.
        advice: what to change in the request.
        release: always called at the end of the block; resets a pipeline that was interrupted by an exception, so that
            it can be called again.

    Raises:
        ModelFailed: out of memory; a smaller request may succeed.
        DeviceFailed: any other device error; CUDA is unusable in this process afterwards.
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
    """Clear the local variables of the traceback's stack frames, which keep tensors in memory."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__context__


def finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor. Raises ModelFailed if it has an element that is not finite; on the meta device it has none."""
    if not tensor.is_meta and not torch.isfinite(tensor).all():
        raise ModelFailed("the model produced values that are not finite")
    return tensor


def set_attention(models: Iterable[Any], backend: str | None) -> None:
    """Set the attention backend of diffusers transformers. Raises ConfigError if it is unknown or not available."""
    if backend is None:
        return
    for model in models:
        try:
            model.set_attention_backend(backend)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"attention: {error}", param="attention") from error


def place(pipe: Any, device: torch.device, offload: Offload, *, in_order: bool) -> None:
    """Move a diffusers pipeline to the device. The VAE is never offloaded: its decoder is called without the hooks.

    Args:
        pipe: the pipeline; its `model_cpu_offload_seq` ends with the VAE.
        device: the device to compute on.
        offload: what to keep in CPU memory.
        in_order: whether every pass calls the same layers in the same order, so that layers can be prefetched.

    Raises:
        ConfigError: offloading is requested and the device is the CPU.
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
