"""Enlarging: how fast it is against the plain loop over frames, and how near it comes to what was there."""

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
from benchmarks.report import RESULTS, Goal, Report, Row, Section, alternated, ratio, spread
from services.frames import Pixels
from services.realesrgan.model import RealEsrganModel
from services.realesrgan.settings import SHIPPED, RealEsrganSettings

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
FRAMES = 8
"""Of the clip, spread evenly over it."""
SHRUNK = 4
"""How many times smaller the given pictures are than the clip."""
WIDTH, HEIGHT = 1280 // SHRUNK, 720 // SHRUNK
RUN = 4
"""Frames that are enlarged in one go, as many as the product's batch."""
ROUNDS = 5
SCALES = (4, 2)

PLAIN, OURS, WHOLE = "plain loop, float32", "RealEsrganModel", "RealEsrganModel, float32"
SETTINGS = RealEsrganSettings()

ORIGINAL, BICUBIC, LANCZOS, NET, NET32 = "original", "bicubic", "Lanczos", "Real-ESRGAN", "Real-ESRGAN, float32"
ENLARGED = (BICUBIC, LANCZOS, NET, NET32)
SHOWN = (ORIGINAL, BICUBIC, LANCZOS, NET)
CROP_WIDTH, CROP_HEIGHT = 240, 144
"""Of the contact sheet's parts, in pixels."""
MEASURES = {"PSNR (dB)": psnr, "SSIM": ssim, "GMSD": gmsd}

SPEED = f"""\
Frames a second of {WIDTH}×{HEIGHT}, in runs of {RUN} frames. *{PLAIN}*: the net as spandrel loads it, one frame at a
time, whole, its result as uint8; for ×2 each 2 × 2 pixels of it averaged. *{OURS}*: the product as it is configured by
default, {SETTINGS.dtype}, {SETTINGS.batch} frames to a pass, in tiles of {SETTINGS.tile} pixels; beside it the same in
float32. All with the shipped realesr-animevideov3, in one process with the same threads; {ROUNDS} rounds in which they
take turns, after one that does not count; medians, the extremes in brackets; the ratio is by rounds. *off*: the mean
difference of the results from the plain loop's, in levels of 255."""

QUALITY = f"""\
{FRAMES} frames spread over the shipped clip (1280×720, of a rendered film), each {SHRUNK} times as small by the exact
mean of each {SHRUNK} × {SHRUNK} pixels, rounded to uint8, and enlarged ×{SHRUNK} again: by Pillow's bicubic and
Lanczos, and by the shipped realesr-animevideov3. Against the original: PSNR over all colours, SSIM (Wang 2004: luma,
Gaussian window of 11 pixels, σ 1.5, full size) and GMSD (Xue 2014: luma, c = 170; **lower is better**). Medians over
the frames, the extremes in brackets; every frame is in the CSV file beside this page. The picture beside it shows parts
of the frames pixel for pixel, in turn where there are the sharpest edges and where there is the finest texture.

All three measures reward whoever stays near to the mean of all that could have been there. The net was trained to look
sharp, against an adversary, on drawn film that was compressed and blurred, and this is clean: where it loses by them,
that stands here as it is."""


def measure(device: str = "cpu") -> Report:
    """Measure speed and quality, and draw the contact sheet. Some minutes on two cores.

    Args:
        device: of torch.
    """
    originals = clip()
    with tempfile.TemporaryDirectory() as home:
        nets = {
            dtype: RealEsrganModel(SETTINGS.model_copy(update={"device": device, "dtype": dtype}), Path(home))
            for dtype in (SETTINGS.dtype, "float32")
        }
        given = np.stack([averaged(original, SHRUNK) for original in originals.values()])
        speed, goals, samples = speeds(nets, given[:RUN], device)
        made = enlarged(nets, given)
    quality, scores = qualities(originals, made)
    stem = "upscale" if device == "cpu" else f"upscale_{device}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.csv").write_text(csv(originals, scores))
    sheet(originals, made).save(RESULTS / f"{stem}.png", optimize=True)
    return Report(
        "Enlarging with Real-ESRGAN",
        "In this process, without a server. Each part says what it measures.",
        rows=(),
        goals=goals,
        samples=samples | {f"{name}, {what}": values for (name, what), values in scores.items()},
        packages=("torch", "spandrel", "pillow", "numpy"),
        versions={"device": device_name(device)},
        sections=[speed, quality],
    )


def device_name(device: str) -> str:
    """What the device is called, with the number of threads where it is the CPU."""
    if device == "cpu":
        return f"the CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def clip() -> dict[int, Picture]:
    """Number of the frame → the frame, (720, 1280, 3)."""
    with av.open(str(CLIP)) as file:
        frames = list(file.decode(video=0))
    chosen = [round(at) for at in np.linspace(0, len(frames) - 1, FRAMES)]
    return {number: frames[number].to_ndarray(format="rgb24").astype(np.uint8) for number in chosen}


def averaged(picture: Picture, times: int) -> Picture:
    """Return the picture so many times as small: each pixel the mean of the area that it covers."""
    height, width = (side // times for side in picture.shape[:2])
    return picture.reshape(height, times, width, times, 3).mean((1, 3)).round().astype(np.uint8)


# --- speed --------------------------------------------------------------------------------------------------------


class PlainLoop:
    """What one would write first: the net as it is loaded, frame by frame."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._net = cast("Any", ModelLoader(device="cpu").load_from_file(SHIPPED)).model.float().eval().to(device)

    @torch.no_grad()
    def upscale(self, pixels: Pixels, scale: int) -> Pixels:
        """(n, h, w, 3) uint8 → (n, scale · h, scale · w, 3) uint8; a scale of 4 or 2."""
        made: list[Pixels] = []
        for frame in pixels:
            picture = torch.from_numpy(frame).to(self._device).permute(2, 0, 1)[None].float() / 255
            large = self._net(picture).clamp(0, 1)
            large = F.avg_pool2d(large, 4 // scale)
            made.append((large * 255).round().byte()[0].permute(1, 2, 0).cpu().numpy())
        return np.stack(made)


def speeds(
    nets: Mapping[str, RealEsrganModel], run: Pixels, device: str
) -> tuple[Section, list[Goal], dict[str, list[float]]]:
    """Compare the contenders, for each scale by itself."""
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
        rates = alternated({name: lambda way=way: len(run) / seconds(way) for name, way in ways.items()}, ROUNDS)
        due = ways[PLAIN]().astype(int)
        for name, way in ways.items():
            rows.append(
                {
                    "scale": f"×{scale}",
                    "": name,
                    "frames a second": str(spread(rates[name])),
                    "over plain": str(ratio(rates, name, PLAIN)),
                    "off": f"{np.abs(way() - due).mean():.2f}",
                }
            )
        goals.append(Goal(f"×{scale}: frames a second, {OURS} over {PLAIN}", ratio(rates, OURS, PLAIN).median, 2))
        samples |= {f"×{scale}, {name}, frames a second": rates[name] for name in ways}
    return Section("Speed", SPEED, rows), goals, samples


def seconds(way: Any) -> float:
    """How long a call takes; its result lies in the CPU's memory, so no GPU is still at work."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


# --- quality ------------------------------------------------------------------------------------------------------


def enlarged(nets: Mapping[str, RealEsrganModel], given: Pixels) -> dict[str, list[Picture]]:
    """By every way: the given pictures, as large as they were."""
    size = given.shape[2] * SHRUNK, given.shape[1] * SHRUNK
    made: dict[str, list[Picture]] = {
        name: [np.array(Image.fromarray(picture).resize(size, filter_)) for picture in given]
        for name, filter_ in ((BICUBIC, Image.Resampling.BICUBIC), (LANCZOS, Image.Resampling.LANCZOS))
    }
    by_net = {NET: nets[SETTINGS.dtype], NET32: nets["float32"]}
    return made | {name: list(net.upscale(given, SHRUNK, lambda: None)) for name, net in by_net.items()}


def qualities(
    originals: Mapping[int, Picture], made: Mapping[str, Sequence[Picture]]
) -> tuple[Section, dict[tuple[str, str], list[float]]]:
    """Score every way. The scores are by way and measure, frame by frame."""
    scores: dict[tuple[str, str], list[float]] = {}
    for name in track(ENLARGED, description="quality"):
        for what, measured in MEASURES.items():
            pairs = zip(originals.values(), made[name], strict=True)
            scores[name, what] = [measured(original, picture) for original, picture in pairs]
    rows: list[Row] = [
        {"enlarged by": name}
        | {what: _told(scores[name, what], 2 if what.startswith("PSNR") else 4) for what in MEASURES}
        for name in ENLARGED
    ]
    return Section("Quality", QUALITY, rows), scores


def _told(values: Sequence[float], digits: int) -> str:
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


def sheet(originals: Mapping[int, Picture], made: Mapping[str, Sequence[Picture]]) -> Image.Image:
    """Of every frame a part: in turn the one with the sharpest edges and the one with the finest texture."""
    rows: dict[str, list[Picture]] = {}
    for index, (number, original) in enumerate(originals.items()):
        part = busiest(original, CROP_WIDTH, CROP_HEIGHT, (4, 1)[index % 2])
        rows[f"frame {number}"] = [original[part], *(made[name][index][part] for name in SHOWN[1:])]
    return contact_sheet(rows, SHOWN)
