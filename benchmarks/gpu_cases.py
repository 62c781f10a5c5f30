"""What the GPU benchmark measures: models, sizes and jobs, and published figures to compare them with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import gpu_passes as passes
from benchmarks.gpu_passes import Canvas, MakeRun
from services.catalogue import KINDS
from services.checkpoint import Component

WAN, FLUX, QWEN = "Wan2.2-I2V-A14B", "FLUX.1-dev", "Qwen-Image-Edit-2509"


@dataclass(frozen=True, slots=True)
class Work:
    """A job, whose forward passes are timed."""

    name: str
    canvas: Canvas
    make_pass: MakeRun
    passes: int
    """Forward passes of a job."""
    job: str
    """What these passes are, e.g. `40 steps, each with and without the prompt`."""
    make_decode: MakeRun | None = None
    """Decoding by the VAE, if it is measured."""
    default_only: bool = False
    """Whether only the default variant is measured."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, whose networks are all in memory while it is measured."""

    kind: str
    name: str
    components: Sequence[Component]
    dtype: str
    works: Sequence[Work]
    main: Sequence[str] = ("transformer",)
    """Components that are compiled; none if the model has no such setting."""
    has_attention_backends: bool = False
    """Whether the model has a setting for the attention backend."""
    dtypes: dict[str, str] = field(default_factory=dict[str, str])
    """Component → its data type, if it is not the model's."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A published time."""

    work: str
    """Name of the work that it can be compared with."""
    system: str
    seconds: float
    passes: int
    """Forward passes in this time."""
    whole: bool
    """Whether the time includes the text encoder and the VAE, not the passes alone."""
    note: str = ""


ANCHORS = (
    Anchor(
        f"{WAN} 832×480, 81 frames", "vLLM-Omni, H100", 27.6, 8, whole=True, note="`4 steps` with CFG; maybe 6 passes"
    ),
    Anchor(f"{WAN} 832×480, 81 frames", "LightX2V, H100, Wan2.1-I2V-14B 480p", 5.18, 2, whole=False),
    Anchor(f"{WAN} 832×480, 81 frames", "diffusers, H100, Wan2.1-I2V-14B 480p (by LightX2V)", 9.77, 2, whole=False),
    Anchor(f"{FLUX} 1024×1024", "SGLang", 3.85, 28, whole=True, note="about"),
    Anchor(f"{FLUX} 1024×1024", "diffusers, H200 (by SGLang)", 5.58, 28, whole=True),
    Anchor(f"{FLUX} 1024×1024", "diffusers, compiled, H200 (by SGLang)", 4.32, 28, whole=True),
    Anchor(f"{FLUX} 1024×1024", "diffusers, FA3, compiled, H200 (by SGLang)", 3.73, 28, whole=True),
    Anchor(f"{QWEN} 1024×1024, 2 pictures", "SGLang, H100", 38.6, 80, whole=True, note="40 steps; CFG assumed"),
)


def _components(kind: str, repository: str) -> tuple[Component, ...]:
    """Return the networks of a known checkpoint."""
    (found,) = (each for each in KINDS[kind].checkpoints if each.repository.endswith(repository))
    return found.components


def _face() -> Component:
    """Return InfiniteYou's ControlNet, under the name `face` and as the class that the model runs."""
    name = "infu_flux_v1.0/aes_stage2/InfuseNetModel"
    (found,) = (each for each in _components("flux", "InfiniteYou") if each.name == name)
    changes = {"name": "face", "library": "reelgraph", "class_name": "services.flux.identity:IdentityControlNet"}
    return found.model_copy(update=changes)


def _network(class_name: str, parameters: int, **config: int) -> Component:
    """Return a model of a single network of a module."""
    return Component(
        name="", library="reelgraph", class_name=class_name, config=dict(config), parameters=parameters, dtype="float32"
    )


GUIDED = "steps, each with and without the prompt"
AT_ONCE = "steps, with and without the prompt at once"
SQUARE = Canvas(1024, 1024)

SUBJECTS = (
    Subject(
        "wan",
        WAN,
        _components("wan", "I2V-A14B-Diffusers"),
        "bfloat16",
        [
            Work("832×480, 81 frames", Canvas(832, 480, 81), passes.pass_wan, 80, f"40 {GUIDED}", passes.decode_wan),
            Work(
                "1280×720, 81 frames",
                Canvas(1280, 720, 81),
                passes.pass_wan,
                80,
                f"40 {GUIDED}",
                passes.decode_wan,
                default_only=True,
            ),
        ],
        has_attention_backends=True,
        dtypes={"vae": "float32"},
    ),
    Subject(
        "wan",
        "Wan2.2-TI2V-5B",
        _components("wan", "TI2V-5B-Diffusers"),
        "bfloat16",
        [
            Work(
                "1280×704, 121 frames",
                Canvas(1280, 704, 121),
                passes.pass_wan_by_token,
                100,
                f"50 {GUIDED}",
                passes.decode_wan,
            )
        ],
        has_attention_backends=True,
        dtypes={"vae": "float32"},
    ),
    Subject(
        "flux",
        FLUX,
        (*_components("flux", "FLUX.1-dev"), _face()),
        "bfloat16",
        [
            Work("1024×1024", SQUARE, passes.pass_flux, 28, "28 steps", passes.decode_picture),
            Work("1024×1024, with a face", SQUARE, passes.pass_flux_face, 28, "28 steps", passes.decode_picture, True),
        ],
        has_attention_backends=True,
    ),
    Subject(
        "qwen-edit",
        QWEN,
        _components("qwen-edit", "Qwen-Image-Edit-2509"),
        "bfloat16",
        [
            Work(
                "1024×1024, 2 pictures",
                Canvas(1024, 1024, references=2),
                passes.pass_qwen,
                80,
                f"40 {GUIDED}",
                passes.decode_qwen,
            ),
            Work("1024×1024, guidance", SQUARE, passes.guide_qwen, 40, "40 updates", default_only=True),
        ],
        has_attention_backends=True,
    ),
    Subject(
        "hunyuan-dit",
        "HunyuanDiT-v1.2-Distilled",
        _components("hunyuan-dit", "v1.2-Diffusers-Distilled"),
        "float16",
        [Work("1024×1024", SQUARE, passes.pass_hunyuan_dit, 25, f"25 {AT_ONCE}", passes.decode_picture)],
    ),
    Subject(
        "text-to-video",
        "text-to-video-ms-1.7b",
        _components("text-to-video", "text-to-video-ms-1.7b"),
        "float16",
        [
            Work(
                "256×256, 16 frames",
                Canvas(256, 256, 16),
                passes.pass_text_to_video,
                25,
                f"25 {AT_ONCE}",
                passes.decode_text_to_video,
            )
        ],
        main=(),
    ),
    Subject(
        "internvl",
        "InternVL3.5-8B",
        _components("internvl", "InternVL3_5-8B-HF"),
        "bfloat16",
        [
            Work("8 frames, reading", Canvas(448, 448, 8), passes.read_internvl, 1, "the frames and the prompt"),
            Work("8 frames, answer", Canvas(448, 448, 8), passes.answer_internvl, 255, "tokens after the first"),
        ],
        main=(),
    ),
    Subject(
        "realesrgan",
        "RealESRGAN_x4plus",
        (_network("spandrel.architectures.ESRGAN:ESRGAN", 16_697_987),),
        "bfloat16",
        [Work("1024×576, 4 frames", Canvas(1024, 576), passes.enlarge, 25, "25 batches of 4 frames")],
        main=("",),
    ),
    Subject(
        "instantid",
        "ArcFace IR-SE50",
        (_network("services.instantid.arcface:ArcFace", 43_797_696),),
        "float32",
        [Work("112×112", Canvas(112, 112), passes.embed_face, 1, "one face")],
        main=(),
    ),
    Subject(
        "svd",
        "SVD-XT",
        _components("svd", "img2vid-xt"),
        "float16",
        [
            Work(
                "1024×576, 25 frames",
                Canvas(1024, 576, 25),
                passes.pass_svd,
                25,
                "25 steps, both guidance passes at once",
                passes.decode_svd,
            )
        ],
        main=("unet",),
    ),
)
"""All models, in the order in which they are measured."""
