"""Writes a page with contact sheets of every graph, made by a local server: `python -m miniatures.gallery FOLDER`."""

import argparse
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from miniatures import world
from miniatures.clips import read, write
from miniatures.grammar import caption
from miniatures.sheet import Row, draw_strip
from miniatures.world import Pixels
from reelgraph import Client
from reelgraph.cli_make import local_client
from reelgraph.errors import ClientError
from reelgraph.progress import display

SCENES = (3, 8, 20)
"""Seeds of the scenes; no model was trained on them."""
PROMPTS = (
    "a red circle on a white background",
    "a yellow star on a blue background",
    "a green square on a black background",
    "a white triangle on a purple and orange background",
    "一个红色星形，背景为白色",
    "一个蓝色圆形，背景为黄色",
)
LORAS = ("flux-outlined", "flux-stippled")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>reelgraph: gallery</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100%; image-rendering: pixelated; border: 1px solid #ddd }} figure {{ margin: 1rem 0 }}
h2 {{ margin-top: 3rem }}</style>
<h1>What the graphs make of the shape world</h1>
<p>Models of a few megabytes that were trained on moving shapes, run as the large ones are.</p>
{pieces}
</html>
"""


@dataclass(frozen=True)
class Piece:
    """One section of the page: a title, a text and the rows of its contact sheet."""

    name: str
    title: str
    text: str
    rows: list[Row]


class Artist:
    """Requests videos and pictures from a server and keeps the results in a folder."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def write_input(self, name: str, frames: Pixels) -> Path:
        """Write the input of a graph to a file and return its path."""
        path = self._folder / f"{name}.{'png' if len(frames) == 1 else 'mp4'}"
        if len(frames) == 1:
            Image.fromarray(frames[0]).save(path)
        else:
            write(path, frames)
        return path

    def video(self, name: str, model: str, **fields: object) -> tuple[Pixels, str]:
        """Return a job's result, and its caption or an empty string."""
        job = self._client.videos.create(model=model, **fields)  # pyright: ignore[reportArgumentType]
        video = self._client.videos.wait(job.id)
        path = self._client.videos.download(video.id, self._folder / f"{name}.mp4")
        return read(path), video.caption or ""

    def picture(self, prompt: str, **fields: object) -> Pixels:
        """Generate a picture: (1, height, width, 3)."""
        answer = self._client.images.generate(prompt=prompt, seed=1, **fields)  # pyright: ignore[reportArgumentType]
        return np.asarray(Image.open(io.BytesIO(answer.data[0].content)).convert("RGB"))[None]


def continue_clip(artist: Artist) -> Piece:
    rows: list[Row] = []
    for seed in SCENES:
        clip = artist.write_input(f"v2v-{seed}-input", world.draw(seed).clip(17))
        result, continuation = artist.video(f"v2v-{seed}", "v2v", input_video=clip, seed=1)
        rows += [Row("input", read(clip)), Row(f"continued as: {continuation}", result)]
    return Piece("v2v", "V2V", "InternVL describes a clip, and Wan continues it from its last frame.", rows)


def animate_by_prompts(artist: Artist) -> Piece:
    scene = world.Scene(
        (world.Figure("star", "red", 11, 32, 32, "right", None, 0, (0, 0, 64, 64)),), ("white",), "none"
    )
    image = artist.write_input("i2v-input", scene.clip(1))
    rows = [Row("input", scene.clip(1))]
    for heading in world.HEADINGS:
        prompt = f"a red star moves {heading} on a white background"
        rows.append(Row(prompt, artist.video(f"i2v-{heading}", "wan-i2v", image=image, prompt=prompt, seed=1)[0]))
    return Piece("i2v", "Image to video", "Wan: one picture, four prompts.", rows)


def paint_pictures(artist: Artist) -> Piece:
    rows = [Row(" / ".join(PROMPTS), np.concatenate([artist.picture(prompt) for prompt in PROMPTS]))]
    for lora in LORAS:
        pictures = [artist.picture(prompt, loras=[lora]) for prompt in PROMPTS]
        rows.append(Row(f"with the LoRA {lora}", np.concatenate(pictures)))
    return Piece("flux", "Pictures", "Flux, in English and Chinese, and with LoRAs.", rows)


def run_pipeline(artist: Artist) -> Piece:
    prompt = "a yellow star on a blue background"
    fields = {"prompt": prompt, "restyle": "outlined", "seed": 1}
    result, _ = artist.video("full-pipeline", "full-pipeline", **fields)
    return Piece(
        "full-pipeline",
        "The full pipeline",
        "Flux draws a picture, HunyuanDiT restyles it, Stable Video Diffusion animates it, Real-ESRGAN upscales it.",
        [Row(f"{prompt}, restyled: outlined", result)],
    )


def film_script(artist: Artist) -> Piece:
    scenes = [
        {"scene_number": number, "description": prompt, "duration": 1} for number, prompt in enumerate(PROMPTS[:3], 1)
    ]
    fields = {"script": {"scenes": scenes}, "write_prompts": False, "crossfade_s": 0.25, "seed": 1}
    result, _ = artist.video("storyboard", "storyboard", **fields)
    text = "Each scene of a script is generated by the full pipeline, with cross-fades between scenes."
    return Piece("storyboard", "The storyboard", text, [Row(" / ".join(PROMPTS[:3]), result)])


def animate_pictures(artist: Artist) -> Piece:
    rows: list[Row] = []
    for seed in SCENES:
        scene = world.draw(seed, figures=1, motion="line")
        image = artist.write_input(f"svd-{seed}-input", scene.clip(1))
        rows.append(Row(caption(scene), artist.video(f"svd-{seed}", "svd", image=image, seed=1)[0]))
    return Piece("svd", "Animated pictures", "Stable Video Diffusion, which needs no prompt.", rows)


def roll_edit(artist: Artist) -> Piece:
    scene = world.draw(SCENES[1], figures=1, motion="line")
    first = artist.write_input("edit-first", scene.clip(1))
    edges = artist.write_input("edit-edges", scene.edges(9)[1:])
    result, _ = artist.video(
        "rolling-edit", "rolling-edit", init_frame=first, edge_video=edges, prompt=caption(scene), seed=1
    )
    text = "Qwen-Image-Edit redraws each frame along the next edges, guided by losses."
    return Piece("rolling-edit", "Rolling edit", text, [Row("edges", scene.edges(9)), Row("frames", result)])


def enlarge_clip(artist: Artist) -> Piece:
    scene = world.draw(SCENES[2])
    clip = artist.write_input("upscale-input", scene.clip(9))
    result, _ = artist.video("upscale", "realesrgan", input_video=clip, scale=4)
    rows = [Row("input", read(clip)), Row("upscaled 4 times", result), Row("original", scene.clip(9, scale=4))]
    return Piece("upscale", "Upscaling", "Real-ESRGAN, with the real animation model.", rows)


PIECES: tuple[Callable[[Artist], Piece], ...] = (
    continue_clip,
    animate_by_prompts,
    paint_pictures,
    run_pipeline,
    film_script,
    animate_pictures,
    roll_edit,
    enlarge_clip,
)
NEEDED = ("v2v", "wan-i2v", "full-pipeline", "storyboard", "svd", "rolling-edit", "realesrgan")


def write_page(pieces: Iterable[Piece]) -> str:
    """Return the page; it shows the contact sheets that lie beside it. Text is in HTML, so that it may be Chinese."""
    return PAGE.format(pieces="\n".join(map(_section, pieces)))


def _section(piece: Piece) -> str:
    figures = (
        f'<figure><figcaption>{escape(row.text)}</figcaption><img src="{piece.name}-{number}.png" alt=""></figure>'
        for number, row in enumerate(piece.rows)
    )
    return "\n".join([f"<h2>{escape(piece.title)}</h2>", f"<p>{escape(piece.text)}</p>", *figures])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.gallery", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    parts = folder / "parts"
    screen, pieces = display(sys.stderr), []
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with local_client(screen, NEEDED) as client:
            artist = Artist(client, parts)
            for make in PIECES:
                piece = make(artist)
                screen.note(piece.title)
                for number, row in enumerate(piece.rows):
                    Image.fromarray(draw_strip(row.frames)).save(folder / f"{piece.name}-{number}.png")
                pieces.append(piece)
        (folder / "index.html").write_text(write_page(pieces), encoding="utf-8")
    except (ClientError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(folder / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
