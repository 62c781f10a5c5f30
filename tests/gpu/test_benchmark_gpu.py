"""What of the GPU benchmark only a GPU can show: the attention backend, the peak of its memory."""

import dataclasses

import pytest
import torch

from benchmarks.gpu import measure
from benchmarks.gpu_timing import VARIANTS, Bench
from tests.benchmarks.narrow import list_narrow

pytestmark = pytest.mark.gpu


def test_narrow_models_are_measured_in_all_variants() -> None:
    """Networks that are compiled whole are left out: each takes minutes."""
    wholly = ("svd", "hunyuan-dit", "realesrgan")
    subjects = [dataclasses.replace(each, main=()) if each.kind in wholly else each for each in list_narrow()]
    report = measure([], Bench(torch.device("cuda"), VARIANTS), subjects)
    assert not [row for row in report.rows if "not measured" in str(row["pass (s)"])]
    assert all(isinstance(row["peak (GB)"], float) and row["peak (GB)"] > 0 for row in report.rows)
