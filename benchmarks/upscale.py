"""Measures upscaling: speed against a plain loop over frames, and quality against the original."""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from PIL import Image
from rich.progress import track
from spandrel import ModelLoader
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from benchmarks.contact_sheet import busiest, contact_sheet
from benchmarks.picture_quality import Picture, gmsd, psnr, ssim
from benchmarks.report import RESULTS, Goal, Report, Row, Section, find_spread, measure_alternately, ratio
from services.frames import Pixels
from services.realesrgan.model import RealEsrganModel
from services.realesrgan.settings import SHIPPED, RealEsrganSettings

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
FRAMES = 8
"""Number of frames, spread evenly over the clip."""
SHRUNK = 4
"""Factor by which the input pictures are smaller than the clip."""
WIDTH, HEIGHT = 1280 // SHRUNK, 720 // SHRUNK
RUN = 4
"""Frames per call, equal to the product's batch size."""
ROUNDS = 5
SCALES = (4, 2)

PLAIN, OURS, WHOLE = "plain loop, float32", "RealEsrganModel", "RealEsrganModel, float32"
SETTINGS = RealEsrganSettings()

ORIGINAL, BICUBIC, LANCZOS, NET, NET32 = "original", "bicubic", "Lanczos", "Real-ESRGAN", "Real-ESRGAN, float32"
ENLARGED = (BICUBIC, LANCZOS, NET, NET32)
SHOWN = (ORIGINAL, BICUBIC, LANCZOS, NET)
CROP_WIDTH, CROP_HEIGHT = 240, 144
"""Size of the contact sheet's crops, in pixels."""
MEASURES = {"PSNR (dB)": psnr, "SSIM": ssim, "GMSD": gmsd}

SPEED = f"""\
Frames per second of {WIDTH}×{HEIGHT}, in runs of {RUN} frames. *{PLAIN}*: the net as spandrel loads it, one whole frame
at a time, converted to uint8; for ×2 each 2 × 2 pixels are averaged. *{OURS}*: the product with its default settings,
{SETTINGS.dtype}, {SETTINGS.batch} frames per pass, tiles of {SETTINGS.tile} pixels; also in float32. All use the
shipped realesr-animevideov3, in one process with the same number of threads; {ROUNDS} rounds with alternating order
after a warm-up round; medians, with the extremes in brackets; ratios are per round. *off*: the mean difference from the
plain loop's result, in levels from 0 to 255."""

QUALITY = f"""\
{FRAMES} frames spread over the shipped clip (1280×720, of a rendered film), each shrunk by averaging {SHRUNK} ×
{SHRUNK} pixels, rounded to uint8, and upscaled ×{SHRUNK} again: by Pillow's bicubic and Lanczos filters, and by the
shipped realesr-animevideov3. Compared with the original: PSNR over all colours, SSIM (Wang 2004: luma, Gaussian window
of 11 pixels, σ 1.5, full size) and GMSD (Xue 2014: luma, c = 170; **lower is better**). Medians over the frames, with
the extremes in brackets; every frame is in the CSV file next to this page. The contact sheet shows crops of the frames
pixel for pixel, alternately those with the sharpest edges and those with the finest texture.

All three measures favour results close to the mean of all plausible originals. The net was trained adversarially, for
sharpness, on compressed and blurred animation, while this clip is clean; lower scores than those of simple filters are
reported as measured."""


def measure(device: str = "cpu") -> Report:
    """Measure speed and quality, and draw the contact sheet. Takes several minutes on two cores.

    Args:
        device: a torch device.
    """
    originals = read_clip()
    with tempfile.TemporaryDirectory() as home:
        nets = {
            dtype: RealEsrganModel(SETTINGS.model_copy(update={"device": device, "dtype": dtype}), Path(home))
            for dtype in (SETTINGS.dtype, "float32")
        }
        given = np.stack([shrink(original, SHRUNK) for original in originals.values()])
        speed, goals, samples = measure_speeds(nets, given[:RUN], device)
        made = upscale_all(nets, given)
    quality, scores = measure_quality(originals, made)
    stem = "upscale" if device == "cpu" else f"upscale_{device}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.csv").write_text(csv(originals, scores))
    draw_sheet(originals, made).save(RESULTS / f"{stem}.png", optimize=True)
    return Report(
        "Enlarging with Real-ESRGAN",
        "All measurements run in one process without a server.",
        rows=(),
        goals=goals,
        samples=samples | {f"{name}, {what}": values for (name, what), values in scores.items()},
        packages=("torch", "spandrel", "pillow", "numpy"),
        versions={"device": device_name(device)},
        sections=[speed, quality],
    )


def device_name(device: str) -> str:
    """Return the name of the device, with the number of threads of a CPU."""
    if device == "cpu":
        return f"the CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def read_clip() -> dict[int, Picture]:
    """Return index → frame of the clip, (720, 1280, 3)."""
    with av.open(str(CLIP)) as file:
        frames = list(file.decode(video=0))
    chosen = [round(at) for at in np.linspace(0, len(frames) - 1, FRAMES)]
    return {number: frames[number].to_ndarray(format="rgb24").astype(np.uint8) for number in chosen}


def shrink(picture: Picture, times: int) -> Picture:
    """Return the picture shrunk by an integer factor; each pixel is the mean of the area it covers."""
    height, width = (side // times for side in picture.shape[:2])
    return picture.reshape(height, times, width, times, 3).mean((1, 3)).round().astype(np.uint8)


# --- speed --------------------------------------------------------------------------------------------------------


class PlainLoop:
    """The obvious implementation: the net as it is loaded, frame by frame."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._net = cast("Any", ModelLoader(device="cpu").load_from_file(SHIPPED)).model.float().eval().to(device)

    @torch.no_grad()
    def upscale(self, pixels: Pixels, scale: int) -> Pixels:
        """Upscale by 4 or 2: (n, h, w, 3) uint8 → (n, scale · h, scale · w, 3) uint8."""
        made: list[Pixels] = []
        for frame in pixels:
            picture = torch.from_numpy(frame).to(self._device).permute(2, 0, 1)[None].float() / 255
            large = self._net(picture).clamp(0, 1)
            large = F.avg_pool2d(large, 4 // scale)
            made.append((large * 255).round().byte()[0].permute(1, 2, 0).cpu().numpy())
        return np.stack(made)


def measure_speeds(
    nets: Mapping[str, RealEsrganModel], run: Pixels, device: str
) -> tuple[Section, list[Goal], dict[str, list[float]]]:
    """Compare the contenders for each scale."""
    plain = PlainLoop(device)
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    for scale in SCALES:
        ways = {
            PLAIN: lambda scale=scale: plain.upscale(run, scale),
            OURS: lambda scale=scale: nets[SETTINGS.dtype].upscale(run, scale, lambda: None),
            WHOLE: lambda scale=scale: nets["float32"].upscale(run, scale, lambda: None),
        }
        rates = measure_alternately(
            {name: lambda way=way: len(run) / time_call(way) for name, way in ways.items()}, ROUNDS
        )
        due = ways[PLAIN]().astype(int)
        for name, way in ways.items():
            rows.append(
                {
                    "scale": f"×{scale}",
                    "": name,
                    "frames a second": str(find_spread(rates[name])),
                    "over plain": str(ratio(rates, name, PLAIN)),
                    "off": f"{np.abs(way() - due).mean():.2f}",
                }
            )
        goals.append(Goal(f"×{scale}: frames a second, {OURS} over {PLAIN}", ratio(rates, OURS, PLAIN).median, 2))
        samples |= {f"×{scale}, {name}, frames a second": rates[name] for name in ways}
    return Section("Speed", SPEED, rows), goals, samples


def time_call(way: Any) -> float:
    """Return the time of a call in seconds. Its result is in CPU memory, so all GPU work is included."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


# --- quality ------------------------------------------------------------------------------------------------------


def upscale_all(nets: Mapping[str, RealEsrganModel], given: Pixels) -> dict[str, list[Picture]]:
    """Return way → the input pictures upscaled to their original size."""
    size = given.shape[2] * SHRUNK, given.shape[1] * SHRUNK
    made: dict[str, list[Picture]] = {
        name: [np.array(Image.fromarray(picture).resize(size, filter_)) for picture in given]
        for name, filter_ in ((BICUBIC, Image.Resampling.BICUBIC), (LANCZOS, Image.Resampling.LANCZOS))
    }
    by_net = {NET: nets[SETTINGS.dtype], NET32: nets["float32"]}
    return made | {name: list(net.upscale(given, SHRUNK, lambda: None)) for name, net in by_net.items()}


def measure_quality(
    originals: Mapping[int, Picture], made: Mapping[str, Sequence[Picture]]
) -> tuple[Section, dict[tuple[str, str], list[float]]]:
    """Score every way. Scores are per way and measure, frame by frame."""
    scores: dict[tuple[str, str], list[float]] = {}
    for name in track(ENLARGED, description="quality"):
        for what, measured in MEASURES.items():
            pairs = zip(originals.values(), made[name], strict=True)
            scores[name, what] = [measured(original, picture) for original, picture in pairs]
    rows: list[Row] = [
        {"enlarged by": name}
        | {what: _format_spread(scores[name, what], 2 if what.startswith("PSNR") else 4) for what in MEASURES}
        for name in ENLARGED
    ]
    return Section("Quality", QUALITY, rows), scores


def _format_spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def csv(originals: Mapping[int, Picture], scores: Mapping[tuple[str, str], Sequence[float]]) -> str:
    lines = ["enlarged_by,frame,psnr_db,ssim,gmsd"]
    for name in ENLARGED:
        columns = [scores[name, what] for what in MEASURES]
        lines += [
            f"{name.replace(', ', ' ')},{number},{','.join(f'{value:.6f}' for value in values)}"
            for number, *values in zip(originals, *columns, strict=True)
        ]
    return "\n".join(lines) + "\n"


def draw_sheet(originals: Mapping[int, Picture], made: Mapping[str, Sequence[Picture]]) -> Image.Image:
    """Draw a crop of every frame, alternately the one with the sharpest edges and the one with the finest texture."""
    rows: dict[str, list[Picture]] = {}
    for index, (number, original) in enumerate(originals.items()):
        part = busiest(original, CROP_WIDTH, CROP_HEIGHT, (4, 1)[index % 2])
        rows[f"frame {number}"] = [original[part], *(made[name][index][part] for name in SHOWN[1:])]
    return contact_sheet(rows, SHOWN)
