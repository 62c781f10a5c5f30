"""What may be asked for. The same names in HTTP, in Python and (with dashes) on the command line.

The server checks values and knows the defaults; the text beside a field is its help on the command line.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, Literal, Required, TypeAlias, TypedDict

from reelgraph.objects import Identity

Media: TypeAlias = str | PathLike[str]
"""A file id or a `data:` URL as str; a path object is a file on this disk, sent along with the request."""


class PromptFields(TypedDict, total=False):
    """What every model that denoises takes. None is the same as not given: the server's configuration decides."""

    prompt: Annotated[str | None, "What the video shows."]
    negative_prompt: Annotated[str | None, "What it should not show."]
    steps: Annotated[int | None, "Denoising steps."]
    seed: Annotated[int | None, "The same seed makes the same pixels; -1 draws one."]


class SamplingFields(PromptFields, total=False):
    """How Wan samples."""

    num_frames: Annotated[int | None, "Frames to make: a multiple of 4 plus 1."]
    max_area: Annotated[int | None, "The most pixels a frame may have; the aspect is kept."]
    size: Annotated[str | None, "WIDTHxHEIGHT in pixels, instead of max-area."]
    shift: Annotated[float | None, "Flow shift of the noise schedule."]
    solver: Annotated[Literal["unipc", "dpm++"] | None, "Sampler."]
    guidance_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    guidance_scale_2: Annotated[float | None, "Guidance of the low-noise expert, where there are two."]


class ContinuationFields(SamplingFields, total=False):
    """What V2V takes beside them. Without a prompt, the given video is described to get one."""

    describe_prompt: Annotated[str | None, "How to ask for the description of the given video."]
    num_segments: Annotated[int | None, "How many sampled frames the description looks at."]
    join: Annotated[bool | None, "Whether the result begins with the given video."]


class FilmFields(TypedDict, total=False):
    """What ModelScope's text-to-video takes beside the text."""

    negative_prompt: Annotated[str | None, "What it should not show."]
    num_frames: Annotated[int | None, "Frames to make."]
    fps: Annotated[float | None, "Frames per second of the video."]
    steps: Annotated[int | None, "Denoising steps."]
    guidance_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    size: Annotated[str | None, "WIDTHxHEIGHT in pixels."]
    seed: Annotated[int | None, "The same seed makes the same pixels; -1 draws one."]


class MotionFields(TypedDict, total=False):
    """What Stable Video Diffusion makes of a picture. It reads no text: the picture is all it goes by."""

    num_frames: Annotated[int | None, "Frames to make."]
    fps: Annotated[float | None, "Frames per second of the video."]
    motion_bucket_id: Annotated[int | None, "How much moves, 1 to 255."]
    noise_aug_strength: Annotated[float | None, "Noise added to the picture: more motion, less likeness."]


class MotionSamplingFields(TypedDict, total=False):
    """How it samples."""

    steps: Annotated[int | None, "Denoising steps."]
    seed: Annotated[int | None, "The same seed makes the same pixels; -1 draws one."]
    max_area: Annotated[int | None, "The most pixels a frame may have; the aspect is kept."]
    size: Annotated[str | None, "WIDTHxHEIGHT in pixels, instead of max-area."]
    min_guidance_scale: Annotated[float | None, "Guidance of the first frame."]
    max_guidance_scale: Annotated[float | None, "Guidance of the last frame; 1 or less turns it off for all."]


class AnimationFields(MotionFields, MotionSamplingFields, total=False):
    """What Stable Video Diffusion takes."""


class UpscaleFields(TypedDict, total=False):
    """What Real-ESRGAN takes."""

    scale: Annotated[int | None, "How many times as wide and as high: 2, 3 or 4."]


class GuidanceFields(TypedDict, total=False):
    """Guidance by losses while a picture is sampled. A scale of 0 turns its loss off."""

    edge_scale: Annotated[float | None, "Weight of the difference between the picture's edges and the given ones."]
    gram_scale: Annotated[float | None, "Weight of the difference to the first frame's style (Gram matrices)."]
    temporal_scale: Annotated[float | None, "Weight of the difference to the frame before."]
    lr: Annotated[float | None, "How far each update goes."]
    every: Annotated[int | None, "Guide at every so many denoising steps."]
    start_step: Annotated[int | None, "The first step that may be guided, counted from 0."]
    end_step: Annotated[int | None, "The last step that may be guided."]
    last_steps: Annotated[int | None, "Guide only in the last so many steps."]
    edge_size: Annotated[int | None, "Pixels of the longer side at which edges are compared."]
    gram_size: Annotated[int | None, "Pixels of the longer side at which styles are compared."]
    inner_steps: Annotated[int | None, "Updates at each guided step."]
    loss: Annotated[Literal["mse", "l1", "charbonnier"] | None, "How two pictures, or their edges, differ."]


class GuidedFields(PromptFields, total=False):
    """How Qwen-Image-Edit samples."""

    prompt: Annotated[str | None, "What to do to a picture. Where edges are given, they are picture 1."]
    true_cfg_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    edge_filter: Annotated[Literal["none", "sobel", "laplacian"] | None, "How edges are taken from pictures."]
    ttlg: GuidanceFields | None


class EditFields(GuidedFields, total=False):
    """What the rolling edit takes beside them."""

    edge_start: Annotated[int | None, "The first of the edges to use, counted from 0."]
    max_frames: Annotated[int | None, "The most frames to make; the first frame counts."]
    max_area: Annotated[int | None, "The most pixels a frame may have; the aspect is kept."]
    fps: Annotated[float | None, "Frames per second of the video."]


class BranchFrom(TypedDict):
    """A frame of an old rolling edit, from which another one starts. What is not given is taken from the old one."""

    video: str
    frame: int


class PaintingFields(TypedDict, total=False):
    """How Flux samples."""

    negative_prompt: Annotated[str | None, "What it should not show; acts where true-cfg-scale is above 1."]
    true_cfg_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    size: Annotated[str | None, "WIDTHxHEIGHT in pixels."]
    steps: Annotated[int | None, "Denoising steps."]
    guidance_scale: Annotated[float | None, "The guidance that the model was distilled to follow."]
    seed: Annotated[int | None, "The same seed makes the same pixels; -1 draws one."]
    identity_strength: Annotated[float | None, "How strongly the given face acts; 0 is as if there were none."]
    identity_start: Annotated[float | None, "The part of the steps after which the face begins to act."]
    identity_end: Annotated[float | None, "The part of the steps after which the face no longer acts."]


class Lora(TypedDict, total=False):
    """A low-rank adaptation of the model."""

    name: Required[str]
    """A file in the server's directory, by its path without the ending; or a name on its list."""
    weight: float
    """How strongly it acts; 1 where it is not given."""


class AppearanceFields(PaintingFields, total=False):
    """What the painting is adapted by."""

    loras: Sequence[Lora | str] | None
    """`name` or `name:weight` where it is a text."""
    face: Media | None
    """A picture of whoever is to be seen."""
    identity: Identity | Mapping[str, object] | None
    """Whoever is to be seen, as `faces.find` has answered; instead of `face`."""


class RestyleFields(TypedDict, total=False):
    """How HunyuanDiT paints a picture anew."""

    prompt: Annotated[str | None, "The style, and what is to be seen."]
    negative_prompt: Annotated[str | None, "What the picture painted anew should not show."]
    strength: Annotated[float | None, "How much is painted anew, 0 to 1."]
    steps: Annotated[int | None, "Denoising steps of the whole schedule, of which the strength is the part done."]
    guidance_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    guidance_rescale: Annotated[float | None, "How far the contrast is brought back to the unguided one, 0 to 1."]
    seed: Annotated[int | None, "The same seed makes the same pixels; -1 takes that of the whole."]
    max_area: Annotated[int | None, "The most pixels at which the picture is sampled."]


class ShootingFields(AppearanceFields, total=False):
    """How a picture is painted and what becomes of it: the full pipeline's fields, and a storyboard's for each scene.

    True turns a stage on as the server has it; False turns it off.
    """

    restyle: RestyleFields | str | bool | None
    """A text is the style's prompt."""
    animate: AnimationFields | bool | None
    upscale: UpscaleFields | bool | None


class StoryFields(TypedDict, total=False):
    """What the storyboard takes beside the fields of its scenes."""

    topic: Annotated[str | None, "What a script is to be written about, instead of a given one."]
    scenes: Annotated[int | None, "How many scenes the script of a topic is to have."]
    scene_s: Annotated[float | None, "Seconds of each scene, where the topic's own sentences are the scenes."]
    write_prompts: Annotated[bool | None, "Whether a language model turns descriptions into prompts for pictures."]
    fallback: Annotated[
        Literal["placeholder", "error"] | None, "What stands in for a scene that cannot be made; or all has failed."
    ]
    crossfade_s: Annotated[float | None, "Seconds in which a scene passes into the next."]
    interpolate: Annotated[int | None, "Times as many frames per second as the scenes are made with, 1 to 4."]


class RoleFields(TypedDict, total=False):
    """What every graph takes."""

    models: Mapping[str, str] | None
    """Role → the id of the served model that takes it, as in `{"image-to-video": "wan-5b"}`; the server chooses for
    the other roles."""


class VideoFields(
    RoleFields,
    ContinuationFields,
    EditFields,
    AnimationFields,
    FilmFields,
    UpscaleFields,
    RestyleFields,
    ShootingFields,
    StoryFields,
    total=False,
):
    """Every field, media among them."""

    input_video: Media | None
    input_reference: Media | None
    image: Media | None
    last_image: Media | None
    init_frame: Media | None
    style_frame: Media | None
    edge_frames: Media | Sequence[Media] | None
    """Pictures, or a zip of them; the path of a folder is sent as a zip of the files in it."""
    edge_video: Media | None
    rgb_video: Media | None
    edges: Media | None
    """A picture of the edges along which a single picture is edited, white on black."""
    branch_from: BranchFrom | None
    debug: bool | None
    """Whether pictures of what was compared are kept."""
    script: Mapping[str, object] | None
    """`{title, scenes: [{scene_number, description, duration, face?, lora?, style?}]}`; a scene's `face` is a file id,
    its duration is in seconds."""


class ImageFields(GuidedFields, total=False):
    """What the editing of a single picture takes."""

    model: str | None
    """The id of a served model that edits pictures; the server chooses where it is not given."""
    n: int | None
    """How many pictures to make."""
    size: str | None
    """`WIDTHxHEIGHT` in pixels."""


class GenerationFields(AppearanceFields, total=False):
    """What the painting of pictures takes."""

    prompt: Required[str]
    model: str | None
    """The id of a served model that paints pictures; the server chooses where it is not given."""
    n: int | None
    """How many pictures to make, each with the seed after the one before."""


class StreamFields(GenerationFields, total=False):
    """What it takes beside them where the answer is a stream."""

    partial_images: int | None
    """Previews of each picture, 0 to 3, where the server makes them; none where it is not given."""
    progress: bool | None
    """Whether each step is told."""


class ContentOptions(TypedDict, total=False):
    """Which of a job's results, and how it is written."""

    variant: Annotated[
        str | None, "One of the job's results, e.g. thumbnail; what the job is for where it is not given."
    ]
    format: Annotated[Literal["csv", "json"] | None, "Of metrics: csv where it is not given."]


class ListOptions(TypedDict, total=False):
    """Which part of a list."""

    limit: int | None
    """Of one page, 1 to 100; 20 where it is not given."""
    after: str | None
    """The id behind which the list begins."""
    order: Literal["asc", "desc"] | None
    """By the time of creation: the newest first where it is not given."""
