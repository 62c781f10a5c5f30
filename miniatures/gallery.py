"""A page of contact sheets of every graph, made by a server on this machine: `python -m miniatures.gallery FOLDER`."""

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
from miniatures.sheet import Row, strip
from miniatures.world import Pixels
from reelgraph import Client
from reelgraph.cli_make import local_client
from reelgraph.errors import ClientError
from reelgraph.progress import display

SCENES = (3, 8, 20)
"""Seeds of what is shown; no model was trained on them."""
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
    """One section of the page."""

    name: str
    title: str
    text: str
    rows: list[Row]


class Artist:
    """Orders from a server, and keeps what comes in a folder."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def given(self, name: str, frames: Pixels) -> Path:
        """Write what is given to a graph."""
        path = self._folder / f"{name}.{'png' if len(frames) == 1 else 'mp4'}"
        if len(frames) == 1:
            Image.fromarray(frames[0]).save(path)
        else:
            write(path, frames)
        return path

    def video(self, name: str, model: str, **fields: object) -> tuple[Pixels, str]:
        """Return a job's result, and the caption if the job has one."""
        job = self._client.videos.create(model=model, **fields)  # pyright: ignore[reportArgumentType]
        video = self._client.videos.wait(job.id)
        path = self._client.videos.download(video.id, self._folder / f"{name}.mp4")
        return read(path), video.caption or ""

    def picture(self, prompt: str, **fields: object) -> Pixels:
        """Paint a prompt: (1, height, width, 3)."""
        answer = self._client.images.generate(prompt=prompt, seed=1, **fields)  # pyright: ignore[reportArgumentType]
        return np.asarray(Image.open(io.BytesIO(answer.data[0].content)).convert("RGB"))[None]


def continued(artist: Artist) -> Piece:
    rows: list[Row] = []
    for seed in SCENES:
        clip = artist.given(f"v2v-{seed}-given", world.draw(seed).clip(17))
        made, said = artist.video(f"v2v-{seed}", "v2v", input_video=clip, seed=1)
        rows += [Row("given", read(clip)), Row(f"goes on as: {said}", made)]
    return Piece("v2v", "V2V", "InternVL describes a clip, and Wan goes on from its last frame.", rows)


def begun(artist: Artist) -> Piece:
    scene = world.Scene(
        (world.Figure("star", "red", 11, 32, 32, "right", None, 0, (0, 0, 64, 64)),), ("white",), "none"
    )
    image = artist.given("i2v-given", scene.clip(1))
    rows = [Row("given", scene.clip(1))]
    for heading in world.HEADINGS:
        prompt = f"a red star moves {heading} on a white background"
        rows.append(Row(prompt, artist.video(f"i2v-{heading}", "wan-i2v", image=image, prompt=prompt, seed=1)[0]))
    return Piece("i2v", "Image to video", "Wan: one picture, four prompts.", rows)


def painted(artist: Artist) -> Piece:
    rows = [Row(" / ".join(PROMPTS), np.concatenate([artist.picture(prompt) for prompt in PROMPTS]))]
    for lora in LORAS:
        pictures = [artist.picture(prompt, loras=[lora]) for prompt in PROMPTS]
        rows.append(Row(f"the same with the LoRA {lora}", np.concatenate(pictures)))
    return Piece("flux", "Pictures", "Flux, in English and Chinese, and with LoRAs.", rows)


def whole(artist: Artist) -> Piece:
    prompt = "a yellow star on a blue background"
    fields = {"prompt": prompt, "restyle": "outlined", "seed": 1}
    made, _ = artist.video("full-pipeline", "full-pipeline", **fields)
    return Piece(
        "full-pipeline",
        "The full pipeline",
        "Flux paints, HunyuanDiT restyles, Stable Video Diffusion animates, Real-ESRGAN enlarges.",
        [Row(f"{prompt}, restyled: outlined", made)],
    )


def filmed(artist: Artist) -> Piece:
    scenes = [
        {"scene_number": number, "description": prompt, "duration": 1} for number, prompt in enumerate(PROMPTS[:3], 1)
    ]
    fields = {"script": {"scenes": scenes}, "write_prompts": False, "crossfade_s": 0.25, "seed": 1}
    made, _ = artist.video("storyboard", "storyboard", **fields)
    text = "A script becomes a film: each scene goes through the full pipeline, and one fades into the next."
    return Piece("storyboard", "The storyboard", text, [Row(" / ".join(PROMPTS[:3]), made)])


def animated(artist: Artist) -> Piece:
    rows: list[Row] = []
    for seed in SCENES:
        scene = world.draw(seed, figures=1, motion="line")
        image = artist.given(f"svd-{seed}-given", scene.clip(1))
        rows.append(Row(caption(scene), artist.video(f"svd-{seed}", "svd", image=image, seed=1)[0]))
    return Piece("svd", "Pictures that move", "Stable Video Diffusion, which reads no text.", rows)


def rolled(artist: Artist) -> Piece:
    scene = world.draw(SCENES[1], figures=1, motion="line")
    first = artist.given("edit-first", scene.clip(1))
    edges = artist.given("edit-edges", scene.edges(9)[1:])
    made, _ = artist.video(
        "rolling-edit", "rolling-edit", init_frame=first, edge_video=edges, prompt=caption(scene), seed=1
    )
    text = "Qwen-Image-Edit redraws each frame along the next edges, guided by losses."
    return Piece("rolling-edit", "Rolling edit", text, [Row("edges", scene.edges(9)), Row("frames", made)])


def enlarged(artist: Artist) -> Piece:
    scene = world.draw(SCENES[2])
    clip = artist.given("upscale-given", scene.clip(9))
    made, _ = artist.video("upscale", "realesrgan", input_video=clip, scale=4)
    rows = [Row("given", read(clip)), Row("four times as large", made), Row("as it truly is", scene.clip(9, scale=4))]
    return Piece("upscale", "Enlarging", "Real-ESRGAN, the real animation model.", rows)


PIECES: tuple[Callable[[Artist], Piece], ...] = (
    continued,
    begun,
    painted,
    whole,
    filmed,
    animated,
    rolled,
    enlarged,
)
NEEDED = ("v2v", "wan-i2v", "full-pipeline", "storyboard", "svd", "rolling-edit", "realesrgan")


def page(pieces: Iterable[Piece]) -> str:
    """The page that shows the strips lying beside it; the text is the page's, so that it may be Chinese."""
    return PAGE.format(pieces="\n".join(map(_section, pieces)))


def _section(piece: Piece) -> str:
    figures = (
        f'<figure><figcaption>{escape(row.text)}</figcaption><img src="{piece.name}-{number}.png" alt=""></figure>'
        for number, row in enumerate(piece.rows)
    )
    return "\n".join([f"<h2>{escape(piece.title)}</h2>", f"<p>{escape(piece.text)}</p>", *figures])


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
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
                    Image.fromarray(strip(row.frames)).save(folder / f"{piece.name}-{number}.png")
                pieces.append(piece)
        (folder / "index.html").write_text(page(pieces), encoding="utf-8")
    except (ClientError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(folder / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
