"""Device errors of torch are converted to the project's errors, and device memory is released."""

import gc
import weakref

import pytest
import torch

from services.device import report_device_errors
from services.errors import DeviceFailed, ModelFailed


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ModelFailed),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ModelFailed),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceFailed),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceFailed),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_errors_of_the_device_are_told_apart(error: RuntimeError, becomes: type[Exception]):
    with pytest.raises(Exception) as caught, report_device_errors("8x8 pixels", "ask for less"):  # noqa: PT011
        raise error

    assert type(caught.value) is becomes


def test_a_message_says_what_there_was_too_little_memory_for():
    with pytest.raises(ModelFailed) as caught, report_device_errors("8x8 pixels", "ask for less"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert caught.value.message == "the GPU has too little memory for 8x8 pixels: ask for less"


@pytest.mark.parametrize("error", [None, RuntimeError("shapes do not match"), torch.OutOfMemoryError("full")])
def test_a_pipeline_is_released_however_the_block_ends(error: RuntimeError | None):
    released: list[bool] = []
    try:
        with report_device_errors("8x8 pixels", "ask for less", lambda: released.append(True)):
            if error is not None:
                raise error
    except (RuntimeError, ModelFailed):
        pass
    assert released == [True]


def test_an_error_of_the_release_is_reported_too():
    def release() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(DeviceFailed), report_device_errors("8x8 pixels", "ask for less", release):
        pass


def test_the_tensors_that_filled_the_memory_are_let_go():
    kept: list[weakref.ref[torch.Tensor]] = []

    def fill() -> None:
        large = torch.zeros(8)
        kept.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gc.disable()
    try:
        with pytest.raises(ModelFailed) as caught, report_device_errors("8x8 pixels", "ask for less"):
            fill()
        assert kept[0]() is None, f"{caught.value} holds on to them"
    finally:
        gc.enable()
