"""The GPU benchmark runs on a CPU with narrow networks: the same works, shapes, data types and report."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmarks.gpu import compare, measure, measure_gpu, show
from benchmarks.gpu_cases import ANCHORS, SUBJECTS, Subject, Work
from benchmarks.gpu_networks import Parts, build
from benchmarks.gpu_passes import Canvas, Run
from benchmarks.gpu_timing import DEFAULT, TIMED, VARIANTS, WARM_UPS, Bench, Timing, Variant, measure_subject, plan
from benchmarks.report import Report
from services.catalogue import KINDS
from services.errors import ConfigError, ModelFailed
from services.weights.networks import build_network
from tests.benchmarks.narrow import list_narrow

CPU = torch.device("cpu")
REHEARSED = (DEFAULT, Variant("native", "eager"))
"""A CPU has no other attention backend, and its compiler takes minutes."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def find_subject(name: str, subjects: Sequence[Subject] = SUBJECTS) -> Subject:
    (found,) = (each for each in subjects if each.name == name)
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    """Rehearse all models; SVD's UNet is not compiled, because even to trace it whole takes long."""
    subjects = [dataclasses.replace(each, main=()) if each.kind == "svd" else each for each in list_narrow()]
    return measure([], Bench(CPU, REHEARSED), subjects)


def test_rehearsal_measures_every_work(report: Report) -> None:
    problems = [
        f"{row['model']}, {row['work']}: {row['pass (s)']}" for row in report.rows if "not" in str(row["pass (s)"])
    ]
    assert not problems
    assert all(goal.met for goal in report.goals)
    measured = {(row["model"], row["work"]) for row in report.rows}
    assert measured == {(subject.name, work.name) for subject in SUBJECTS for work in subject.works}
    assert {row["variant"] for row in report.rows if row["model"] == "FLUX.1-dev"} == {
        "default",
        "attention: native, compile",
    }
    assert all(len(values) == TIMED for values in report.samples.values())


def test_rehearsal_stands_beside_every_published_time(report: Report) -> None:
    (section,) = report.sections
    assert {(row["work"], row["published (s)"]) for row in section.rows} == {(a.work, a.seconds) for a in ANCHORS}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@torch.no_grad()
def test_passes_run_at_full_size_on_the_meta_device(subject: Subject) -> None:
    dtypes = {part.name: getattr(torch, subject.dtypes.get(part.name, subject.dtype)) for part in subject.components}
    networks = {part.name: build_network(part, dtypes[part.name]) for part in subject.components}
    parts = Parts(networks, torch.device("meta"), getattr(torch, subject.dtype))
    for work in subject.works:
        made: Any = work.make_pass(parts, work.canvas)()
        first = made if torch.is_tensor(made) else made[0]
        assert first.is_meta


def test_every_kind_of_model_is_measured() -> None:
    assert {subject.kind for subject in SUBJECTS} == set(KINDS)


def test_extrapolation() -> None:
    subject = find_subject("Wan2.2-I2V-A14B")
    timing = Timing(subject, subject.works[0], "default", passes=(2.0, 3.0, 9.0), decode=4.0, peak_bytes=87_000_000_000)
    row = show(timing)
    assert (row["job (s), extrapolated"], row["decode (s)"], row["peak (GB)"]) == (80 * 3 + 4, 4.0, 87)
    by_system = {str(row["published by"]).partition(",")[0]: row for row in compare([timing])}
    assert by_system["vLLM-Omni"]["here (s), extrapolated"] == 8 * 3 + 4, "a whole request"
    assert by_system["LightX2V"]["here (s), extrapolated"] == 2 * 3, "passes alone"
    assert by_system["LightX2V"]["here / published"] == pytest.approx(6 / 5.18)


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("Wan2.2-TI2V-5B", ["default", "attention: _native_cudnn", "attention: _native_cudnn, compile"]),
        ("SVD-XT", ["default", "compile"]),
        ("text-to-video-ms-1.7b", ["default"]),
    ],
)
def test_a_model_is_measured_with_the_settings_that_it_has(name: str, variants: list[str]) -> None:
    assert [variant.name for variant, _ in plan(find_subject(name), Bench(CPU))] == variants


def test_a_work_of_the_default_variant_alone() -> None:
    planned = dict(plan(find_subject("Wan2.2-I2V-A14B"), Bench(CPU)))
    assert [work.canvas.width for work in planned[VARIANTS[0]]] == [832, 1280]
    assert [work.canvas.width for work in planned[VARIANTS[1]]] == [832]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), "out of memory"),
        (RuntimeError("no kernel\nof many lines"), "no kernel"),
        (ModelFailed("not finite"), "not finite"),
    ],
)
def test_a_work_that_fails_is_reported_and_the_next_is_measured(error: Exception, said: str) -> None:
    calls: list[str] = []

    def make_failing(_parts: Parts, _canvas: Canvas) -> Run:
        raise error

    def make_counting(_parts: Parts, canvas: Canvas) -> Run:
        return lambda: calls.append(f"{canvas.width}")

    works = [
        Work("failing", Canvas(64, 64), make_failing, 1, ""),
        Work("counting", Canvas(32, 32), make_counting, 1, "", make_counting),
    ]
    subject = dataclasses.replace(find_subject("ArcFace IR-SE50", list_narrow()), works=works)
    report = measure([], Bench(CPU, [DEFAULT]), [subject])
    failed, counted = report.rows
    assert failed["pass (s)"] == f"not measured: {said}"
    assert isinstance(counted["decode (s)"], float)
    assert len(calls) == WARM_UPS + TIMED + 1
    assert not report.goals[0].met


def test_nothing_is_begun_after_the_time_is_over() -> None:
    bench = Bench(CPU, REHEARSED, budget_s=10, began=time.perf_counter() - 11)
    timings = measure_subject(find_subject("Wan2.2-I2V-A14B"), bench)  # full size: to build it would fill the memory
    assert [timing.problem for timing in timings] == ["out of time"] * 3


def test_only_the_named_kinds_are_measured() -> None:
    report = measure(["instantid"], Bench(CPU, [DEFAULT]), list_narrow())
    assert [row["model"] for row in report.rows] == ["ArcFace IR-SE50"]


def test_built_network_has_the_data_types_of_a_loaded_one_and_no_empty_weights() -> None:
    component = find_subject("Wan2.2-TI2V-5B", list_narrow()).components[0]
    network = build(component, CPU, torch.bfloat16)
    dtypes = {name: weight.dtype for name, weight in network.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == dtypes["patch_embedding.weight"] == torch.bfloat16
    assert dtypes["scale_shift_table"] == dtypes["blocks.0.norm2.weight"] == torch.float32
    assert all(weight.std() > 0 for weight in network.parameters() if weight.ndim > 1)
    again = build(component, CPU, torch.bfloat16)
    assert torch.equal(network.proj_out.weight, again.proj_out.weight)


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"MODEL: must be one of wan, flux, .*, got sdxl"):
        measure_gpu(["sdxl"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ConfigError, match="device: cuda is not available"):
        measure_gpu([])
