"""Builds the models of the GPU benchmark one after the other, and times their passes and decodings."""

import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu_cases import Subject, Work
from benchmarks.gpu_networks import Parts, build
from benchmarks.gpu_passes import Run
from services.device import set_attention
from services.errors import ConfigError, ModelFailed

WARM_UPS, TIMED = 2, 3
BUDGET_S = 540
"""After this time nothing new is begun, so that all models together end within 12 minutes."""
LONGEST_PROBLEM = 100
OUT_OF_TIME, OUT_OF_MEMORY = "out of time", "out of memory"


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings of a model that change its speed and not its work."""

    attention: str | None = None
    """Attention backend of diffusers; None leaves the default."""
    compiler: str | None = None
    """Backend of `torch.compile`; None does not compile."""

    @property
    def name(self) -> str:
        attention = [] if self.attention is None else [f"attention: {self.attention}"]
        return ", ".join([*attention, *(["compile"] if self.compiler is not None else [])]) or "default"


DEFAULT = Variant()
VARIANTS = (DEFAULT, Variant("_native_cudnn"), Variant("_native_cudnn", "inductor"))
"""In this order, because a network stays compiled and keeps its attention backend."""


@dataclass(slots=True)
class Timing:
    """Measurements of a work."""

    subject: Subject
    work: Work
    variant: str
    passes: Sequence[float] = ()
    """Seconds of each timed pass."""
    decode: float | None = None
    """Seconds of the decoding; None if the work has none. Measured in the default variant only."""
    peak_bytes: int | None = None
    """None on the CPU."""
    problem: str = ""
    """Why it was not measured; empty if it was."""

    @property
    def label(self) -> str:
        return f"{self.subject.name} {self.work.name}"

    def extrapolate(self, passes: int, *, whole: bool) -> float:
        """Return the seconds of a number of passes and, if `whole`, of the decoding."""
        decode = self.decode if whole and self.decode is not None else 0.0
        return passes * statistics.median(self.passes) + decode


@dataclass(slots=True)
class Bench:
    """A device, and the time to measure in."""

    device: torch.device
    variants: Sequence[Variant] = VARIANTS
    """The first is the default one."""
    budget_s: float = BUDGET_S
    began: float = field(default_factory=time.perf_counter)

    @property
    def is_out_of_time(self) -> bool:
        return time.perf_counter() - self.began > self.budget_s

    def time_run(self, run: Run) -> float:
        """Return the time of a call in seconds, all work of the device included."""
        self._synchronise()
        began = time.perf_counter()
        run()
        self._synchronise()
        return time.perf_counter() - began

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def find_peak(self) -> int | None:
        """Return the most bytes that were allocated since `reset_peak`; None on the CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def free(self) -> None:
        """Give back the GPU memory of what no longer exists."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_subject(subject: Subject, bench: Bench) -> list[Timing]:
    """Build a model, and measure all its works in all variants; what fails is in the result, too."""
    planned = [
        (variant, [Timing(subject, work, variant.name) for work in works]) for variant, works in plan(subject, bench)
    ]
    timings = [timing for _, group in planned for timing in group]
    _tell(f"{subject.name}: {sum(part.parameters for part in subject.components) / 1e9:.2f} B parameters")
    try:
        problem = OUT_OF_TIME if bench.is_out_of_time else ""
        parts = None if problem else build_parts(subject, bench.device)
    except torch.OutOfMemoryError:
        parts, problem = None, OUT_OF_MEMORY
    decodes: dict[str, float] = {}
    for variant, group in planned:
        if parts is not None:
            problem = _apply_variant([parts.networks[name] for name in subject.main], variant)
        for timing in group:
            timing.problem = problem
            if parts is not None and not problem:
                _measure_work(timing, parts, bench, decodes)
            _tell(
                f"  {timing.work.name}, {variant.name}: {timing.problem or f'{statistics.median(timing.passes):.3g} s'}"
            )
            bench.free()
    return timings


def plan(subject: Subject, bench: Bench) -> Iterator[tuple[Variant, Sequence[Work]]]:
    """Yield the variants in which a model is measured, and the works; settings that it does not have are left out."""
    seen: set[Variant] = set()
    for number, given in enumerate(bench.variants):
        attention = given.attention if subject.has_attention_backends else None
        variant = Variant(attention, given.compiler if subject.main else None)
        works = [work for work in subject.works if number == 0 or not work.default_only]
        if works and variant not in seen:
            yield variant, works
        seen.add(variant)


def build_parts(subject: Subject, device: torch.device) -> Parts:
    """Build all networks of a model. Raises torch.OutOfMemoryError."""
    networks = {
        part.name: build(part, device, getattr(torch, subject.dtypes.get(part.name, subject.dtype)))
        for part in subject.components
    }
    return Parts(networks, device, getattr(torch, subject.dtype))


def _apply_variant(networks: Sequence[Any], variant: Variant) -> str:
    """Apply the settings as the models do. Returns why it is not possible, or an empty string."""
    torch.compiler.reset()
    try:
        set_attention(networks, variant.attention)
    except ConfigError as error:
        return error.message[:LONGEST_PROBLEM]
    for network in networks if variant.compiler is not None else ():
        if getattr(network, "_repeated_blocks", None):
            network.compile_repeated_blocks(fullgraph=True, backend=variant.compiler)
        else:
            network.compile(backend=variant.compiler)
    return ""


@torch.no_grad()
def _measure_work(timing: Timing, parts: Parts, bench: Bench, decodes: dict[str, float]) -> None:
    """Fill in the measurements of a work.

    Args:
        timing: the work; its passes, decoding, peak and problem are set.
        parts: the model's networks.
        bench: the device.
        decodes: name of a work → seconds of its decoding, as far as it is measured; completed.
    """
    work = timing.work
    if bench.is_out_of_time:
        timing.problem = OUT_OF_TIME
        return
    bench.reset_peak()
    try:
        run = work.make_pass(parts, work.canvas)
        for _ in range(WARM_UPS):
            run()
        timing.passes = [bench.time_run(run) for _ in range(TIMED)]
        if work.make_decode is not None and work.name not in decodes:
            decodes[work.name] = bench.time_run(work.make_decode(parts, work.canvas))
    except torch.OutOfMemoryError:
        timing.problem = OUT_OF_MEMORY
    except (RuntimeError, ModelFailed) as error:  # e.g. no kernel of the backend for these shapes
        timing.problem = str(error).partition("\n")[0][:LONGEST_PROBLEM]
    timing.decode = decodes.get(work.name)
    timing.peak_bytes = bench.find_peak()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
