"""The list of everything: which models and graphs there are, and what is bound to what. There is no registry."""

import os
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import ray
from pydantic import Field
from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from composition.artifacts import ArtifactSettings
from composition.calls import Transport
from composition.decode import MediaLimits
from composition.door import DoorSettings
from composition.faces import FaceFinder
from composition.full_pipeline import FullPipeline, FullPipelineRequest
from composition.graph import GraphRequest, GraphSettings, merged_fields
from composition.image_edit import MODEL as EDITS
from composition.image_edit import Editor
from composition.image_generation import Painter
from composition.ingress import Ingress, IngressSettings
from composition.jobs import JobRunner, RunnerSettings
from composition.rolling_edit import RollingEdit, RollingEditRequest
from composition.scenes import Maker, StoryboardRequest, StoryboardSettings
from composition.store import Store
from composition.storyboard import Storyboard
from composition.svd import Animate, AnimateRequest
from composition.text_to_video import Film, FilmRequest
from composition.upscale import Upscale, VideoUpscaleRequest
from composition.v2v import V2V, V2VRequest
from composition.wan_i2v import WanI2V, WanI2VRequest
from services.allowance import MAX_JSON_BYTES
from services.errors import ConfigError
from services.flux.request import FluxRequest
from services.flux.service import Flux, FluxSettings
from services.frames import Face, Item
from services.hunyuan_dit.service import HunyuanDit, HunyuanDitSettings
from services.instantid.service import InstantId, InstantIdSettings
from services.internvl.service import InternVL, InternVLSettings
from services.qwen_edit.service import QwenEdit, QwenEditSettings
from services.realesrgan.service import RealEsrgan, RealEsrganSettings
from services.svd.service import Svd, SvdSettings
from services.text_to_video.service import TextToVideo, TextToVideoSettings
from services.wan.service import Wan, WanSettings
from services.weights import unplugged

Kind = Literal["graph", "service"]

SERVICES = ("internvl", "wan", "qwen-edit", "flux", "instantid", "hunyuan-dit", "svd", "realesrgan", "text-to-video")
"""The deployments that are models."""

LORA_SETS = 8
"""Of so many requests back a replica of Flux is known to hold the LoRAs."""

UNNAMED = ("animate", "upscale", "film", "jobs", "ingress")
"""The deployments that are no model's name: jobs of one stage alone have the name of that stage's model."""

PAINTERS = ("flux", "instantid", "hunyuan-dit", "svd", "realesrgan")
"""The models of the full pipeline, which needs the first of them and takes of the others what there is."""


@dataclass(frozen=True)
class Graph:
    """A graph that needs each of its models."""

    deployment: str
    cls: type
    request: type[GraphRequest]
    needed: tuple[str, ...]


GRAPHS = {
    "v2v": Graph("v2v", V2V, V2VRequest, ("internvl", "wan")),
    "wan-i2v": Graph("wan-i2v", WanI2V, WanI2VRequest, ("wan",)),
    "rolling-edit": Graph("rolling-edit", RollingEdit, RollingEditRequest, ("qwen-edit",)),
    "svd": Graph("animate", Animate, AnimateRequest, ("svd",)),
    "realesrgan": Graph("upscale", Upscale, VideoUpscaleRequest, ("realesrgan",)),
    "text-to-video": Graph("film", Film, FilmRequest, ("text-to-video",)),
}
"""By the name that jobs have. A deployment is called otherwise where that is the name of its model."""

TRANSPORT = Transport(
    lost=(
        RayActorError,
        WorkerCrashedError,
        NodeDiedError,
        OutOfMemoryError,
        ObjectLostError,
        DeploymentUnavailableError,
    ),
    busy=(BackPressureError,),
)


class AppSettings(DoorSettings):
    """`args` of the application in `serve_config*.yaml`."""

    home: Path | None = None
    """Where all state lies; by default REELGRAPH_HOME, or `~/.reelgraph`."""
    database: str | None = None
    """SQLAlchemy URL; by default a SQLite file in `home`, which serves one machine."""
    artifacts: ArtifactSettings | None = None
    """Results and uploads; by default a directory in `home`."""
    auth: Literal["keys", "none"] = "keys"
    """`none` lets everybody in who reaches the server as `allowed_hosts` and `allowed_origins` say, and everybody see
    everything."""
    media: MediaLimits = MediaLimits()
    max_body_bytes: int = Field(default=2 << 30, ge=1)
    max_json_bytes: int = Field(default=MAX_JSON_BYTES, ge=1)
    max_queued_jobs: int = Field(default=100, ge=1)
    defaults: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict[str, Mapping[str, Any]])
    """Model → values for the fields that a request leaves out."""
    concurrency: int = Field(default=2, ge=1)
    """Jobs that one runner works on at a time."""
    lease_s: float = Field(default=15.0, gt=0)
    """After a runner dies, its jobs lie still for this long."""
    max_attempts: int = Field(default=5, ge=1)
    """A job whose runs were all lost this often has failed."""
    internvl: InternVLSettings | None = None
    """The models, each as it is to be loaded. A graph is there when all of its models are."""
    wan: WanSettings | None = None
    qwen_edit: QwenEditSettings | None = None
    flux: FluxSettings | None = None
    instantid: InstantIdSettings | None = None
    hunyuan_dit: HunyuanDitSettings | None = None
    svd: SvdSettings | None = None
    realesrgan: RealEsrganSettings | None = None
    text_to_video: TextToVideoSettings | None = None
    offline: bool = False
    """Never ask a hub: only weights that were fetched before."""
    scenes_by: Maker = "full-pipeline"
    """What makes the scenes of a storyboard: Flux and Stable Video Diffusion, or text-to-video in their place."""

    @property
    def state(self) -> Path:
        """The one directory of all state, absolute, and there."""
        home = self.home or Path(os.environ.get("REELGRAPH_HOME", "~/.reelgraph"))
        home = home.expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
        return home

    @property
    def all_defaults(self) -> dict[str, Mapping[str, Any]]:
        """Those of a storyboard stand before those of the pipeline that makes its scenes."""
        behind = FullPipelineRequest.spelled_out(self.defaults.get("full-pipeline", {}))
        before = StoryboardRequest.spelled_out(self.defaults.get("storyboard", {}))
        return {**self.defaults, "storyboard": merged_fields(behind, before)}

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state / 'reelgraph.db'}"

    @property
    def artifact_store(self) -> ArtifactSettings:
        return self.artifacts or ArtifactSettings(url=str(self.state / "artifacts"))


class Jobs(JobRunner):
    """The job runner as Serve ends it."""

    async def __del__(self) -> None:
        await self.close()


def build(args: AppSettings) -> Application:
    """Bind everything. `serve_config*.yaml` names this function, and says what runs where.

    Raises:
        ConfigError: `auth` is `keys` and there is no key: nobody could get in.
    """
    _need_keys(args)
    services = _services(args)
    graphs, requests = _graphs(args, services)
    running = RunnerSettings(
        database=args.database_url,
        artifacts=args.artifact_store,
        media=args.media,
        concurrency=args.concurrency,
        lease_s=args.lease_s,
        max_attempts=args.max_attempts,
    )
    jobs = _deployed(Jobs, "jobs").bind(graphs, requests, running, TRANSPORT)
    front = IngressSettings(
        database=args.database_url,
        artifacts=args.artifact_store,
        auth=args.auth,
        allowed_hosts=args.allowed_hosts,
        allowed_origins=args.allowed_origins,
        media=args.media,
        max_body_bytes=args.max_body_bytes,
        max_json_bytes=args.max_json_bytes,
        max_queued_jobs=args.max_queued_jobs,
        defaults=args.all_defaults,
        limits=_limits(args),
        rate=float((args.wan.rate if args.wan else None) or 16),
        served=tuple(services),
    )
    # The runner is bound to the front door only so that it belongs to the application; nobody calls it.
    opened = cast("Any", serve.ingress)()(Front)  # pyright: ignore[reportUnknownMemberType]
    pictures = {name: services[name] for name in ("qwen-edit", "flux", "instantid") if name in services}
    return _deployed(opened, "ingress").bind(requests, front, states, pictures, jobs)


def _services(args: AppSettings) -> dict[str, Application]:
    """The models that the configuration names."""
    services: dict[str, Application] = {}
    for name, cls, settings in (
        ("internvl", InternVL, args.internvl),
        ("wan", Wan, args.wan),
        ("qwen-edit", QwenEdit, args.qwen_edit),
        ("flux", RoutedFlux, _with_loras(args)),
        ("instantid", InstantId, args.instantid),
        ("hunyuan-dit", HunyuanDit, args.hunyuan_dit),
        ("svd", Svd, args.svd),
        ("realesrgan", RealEsrgan, args.realesrgan),
        ("text-to-video", TextToVideo, args.text_to_video),
    ):
        if settings is not None:
            told = unplugged(settings) if args.offline else settings
            services[name] = _deployed(cls, name).bind(told, args.state, replica)
    return services


def _with_loras(args: AppSettings) -> FluxSettings | None:
    """LoRAs lie in `home/loras`, unless the configuration says where."""
    flux = args.flux
    if flux is None or flux.lora_dir is not None:
        return flux
    (args.state / "loras").mkdir(exist_ok=True)
    return flux.model_copy(update={"lora_dir": args.state / "loras"})


def _graphs(
    args: AppSettings, services: Mapping[str, Application]
) -> tuple[dict[str, Application], dict[str, type[GraphRequest]]]:
    """The graphs whose models are there, and what each is asked with."""
    graphs: dict[str, Application] = {}
    requests: dict[str, type[GraphRequest]] = {}
    for model in served(args, services.keys()):
        if model == "full-pipeline":
            painters = {name: services[name] for name in PAINTERS if name in services}
            bound = _deployed(FullPipeline, model).bind(painters, _graph(args, model), TRANSPORT)
            graphs[model], requests[model] = bound, FullPipelineRequest
        elif model == "storyboard":
            told = _storyboard(args, services)
            bound = _deployed(Storyboard, model).bind(services.get("internvl"), told, TRANSPORT)
            graphs[model], requests[model] = bound, StoryboardRequest
        else:
            graph = GRAPHS[model]
            handles = [services[name] for name in graph.needed]
            graphs[model] = _deployed(graph.cls, graph.deployment).bind(*handles, _graph(args, model), TRANSPORT)
            requests[model] = graph.request
    if not graphs:
        one = "wan, qwen_edit, flux, svd, realesrgan, text_to_video"
        raise ConfigError(f"args: name the models to serve: internvl and wan, or one of {one}")
    return graphs, requests


def served(args: AppSettings, models: Collection[str]) -> list[str]:
    """The graphs whose models are there."""
    names = [model for model, graph in GRAPHS.items() if set(graph.needed) <= set(models)]
    names += ["full-pipeline"] if "flux" in models else []
    scenes = ("text-to-video",) if args.scenes_by == "text-to-video" else ("flux", "svd")
    return names + (["storyboard"] if set(scenes) <= set(models) else [])


def deployments_of(args: AppSettings) -> set[str]:
    """The names of all deployments that `build` makes of these."""
    models = {name for name in SERVICES if getattr(args, name.replace("-", "_")) is not None}
    graphs = {GRAPHS[model].deployment if model in GRAPHS else model for model in served(args, models)}
    return models | graphs | {"jobs", "ingress"}


def needed_by(model: str, scenes_by: Maker) -> tuple[str, ...]:
    """The models that a graph, or a model by itself, makes use of. Raises ConfigError where there is no such name."""
    if model in GRAPHS:
        return GRAPHS[model].needed
    if model == "storyboard":
        return ("internvl", *needed_by(scenes_by, scenes_by))
    if model == "full-pipeline":
        return PAINTERS
    if model in SERVICES:
        return (model,)
    names = ", ".join((*GRAPHS, "full-pipeline", "storyboard", *SERVICES))
    raise ConfigError(f"only: there is no {model[:60]!r}; there are {names}", param="only")


def _storyboard(args: AppSettings, services: Mapping[str, Application]) -> StoryboardSettings:
    return StoryboardSettings(
        artifacts=args.artifact_store,
        media=args.media,
        defaults=dict(args.all_defaults.get("storyboard", {})),
        database=args.database_url,
        maker=args.scenes_by,
        models=tuple(services),
        film=dict(args.defaults.get("text-to-video", {})),
    )


def _limits(args: AppSettings) -> dict[str, dict[str, float]]:
    """Model → field → the most that may be asked, so that it is refused before it is a job."""
    limits: dict[str, dict[str, float]] = {}
    if args.wan is not None:
        wan: dict[str, float] = {
            "num_frames": args.wan.max_frames,
            "max_area": args.wan.max_area,
            "steps": args.wan.max_steps,
        }
        limits |= {"v2v": wan, "wan-i2v": wan}
    if args.qwen_edit is not None:
        limits["rolling-edit"] = {"max_area": args.qwen_edit.max_area, "steps": args.qwen_edit.max_steps}
    svd: dict[str, float] = {}
    if args.svd is not None:
        svd = {"num_frames": args.svd.max_frames, "max_area": args.svd.max_area, "steps": args.svd.max_steps}
        limits["svd"] = svd
    if args.flux is not None:
        pipeline: dict[str, float] = {"max_area": args.flux.max_area, "steps": args.flux.max_steps}
        pipeline |= {f"animate.{name}": most for name, most in svd.items()}
        if args.hunyuan_dit is not None:
            pipeline["restyle.steps"] = args.hunyuan_dit.max_steps
        limits |= {"full-pipeline": pipeline, "storyboard": pipeline}
        limits["flux"] = {"n": args.flux.max_n, "steps": args.flux.max_steps, "max_area": args.flux.max_area}
    if args.text_to_video is not None:
        film = args.text_to_video
        limits["text-to-video"] = {"num_frames": film.max_frames, "max_area": film.max_area, "steps": film.max_steps}
    return limits


class RoutedFlux(Flux):
    """Flux, whose replicas tell Serve which LoRAs they hold, so that a request goes to one that has its own."""

    @cast("Any", serve).multiplexed(max_num_models_per_replica=LORA_SETS)
    async def _held(self, names: str) -> str:
        """The service itself keeps the LoRAs; Serve is only to know of the names."""
        return names

    async def paint(self, request: FluxRequest, face: Face | None = None, key: str = "") -> AsyncGenerator[Item]:
        names = serve.get_multiplexed_model_id()
        if names:
            await self._held(names)
        async with aclosing(super().paint(request, face, key)) as items:
            async for item in items:
                yield item


class Front(Ingress):
    """The front door as Serve opens it."""

    def __init__(
        self, requests: Any, settings: IngressSettings, asked: Any, models: Mapping[str, Any], jobs: object
    ) -> None:
        del jobs
        qwen_edit, flux, instantid = (models.get(name) for name in ("qwen-edit", "flux", "instantid"))
        limits, defaults = settings.limits, settings.defaults
        editor = painter = faces = None
        if qwen_edit is not None:
            editor = Editor(qwen_edit, limits.get("rolling-edit", {}), defaults.get(EDITS, {}), TRANSPORT)
        if flux is not None:
            painter = Painter(flux, instantid, limits.get("flux", {}), defaults.get("flux", {}), TRANSPORT)
        if instantid is not None:
            faces = FaceFinder(instantid, TRANSPORT)
        super().__init__(requests, settings, asked, editor, painter=painter, faces=faces)


def replica() -> str:
    """Name the replica that asks, and its devices."""
    me = serve.get_replica_context().replica_id
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    node = cast("Any", ray).util.get_node_ip_address()
    return f"{me.deployment_id.name}#{me.unique_id} node={node} gpu={devices or 'none'}"


def states() -> Mapping[str, tuple[Kind, str]]:
    """Ask Serve how the models and graphs stand: name → (kind, state)."""
    here = serve.get_replica_context().app_name
    found = serve.status().applications[here].deployments
    return {
        name: ("service" if name in SERVICES else "graph", str(deployment.status.value))
        for name, deployment in found.items()
        if name not in UNNAMED
    }


def _deployed(cls: type, name: str) -> Any:
    deployment = cast("Any", serve.deployment)  # pyright: ignore[reportUnknownMemberType]
    return deployment(cls, name=name)


def _graph(args: AppSettings, name: str) -> GraphSettings:
    return GraphSettings(artifacts=args.artifact_store, media=args.media, defaults=dict(args.defaults.get(name, {})))


def _need_keys(args: AppSettings) -> None:
    if args.auth == "none":
        return
    store = Store(args.database_url)
    try:
        if not store.api_keys():
            raise ConfigError(
                "auth: there is no API key yet, so nobody could get in. Make one with "
                "`reel keys create OWNER --config FILE`, or write `auth: none` to let everybody in.",
                param="auth",
            )
    finally:
        store.close()
