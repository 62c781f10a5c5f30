"""The computed costs agree with what the networks compute and hold at full size, on the meta device."""

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from services.catalogue import KINDS
from services.checkpoint import Checkpoint
from services.cost import Job, Phase, encode_text
from services.qwen_edit.decoders import StillDecoder, unpacked
from services.qwen_edit.guidance import Losses, Reference, sobel_edges
from services.qwen_edit.request import EditRequest, Guidance
from services.realesrgan.cost import TILE_ELEMENTS
from services.svd.model import decode as decode_svd
from services.wan.model import decode as decode_wan
from services.wan.request import WanRequest
from services.weights.weights import Weights
from tests.real.measuring import Measured, measure
from tests.real.published import list_components
from tests.real.test_full_size import (
    DEV,
    EDIT_2509,
    HUNYUAN,
    I2V,
    INFINITE_YOU,
    INTERNVL,
    META,
    MS,
    SVD_XT,
    TI2V,
    empty,
    flux_inputs,
    network,
    tokens,
)

HALF, FULL = torch.float16, torch.float32
NOWHERE: Any = Weights.model_validate({"path": "/nowhere"})


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def find(repository: str) -> Checkpoint:
    return next(checkpoint for checkpoint, _ in list_components() if checkpoint.repository == repository)


def make_request(kind: str, **fields: Any) -> BaseModel:
    request = KINDS[kind].offers[0].request
    assert request is not None
    return request(**fields)


def phases(kind: str, repository: str, job: Job[Any], name: str, **settings: Any) -> list[Phase]:
    """Return the phases of a request in the network `name`."""
    model = KINDS[kind]
    assert model.costs is not None
    cost = model.costs.estimate(find(repository), model.settings(weights=NOWHERE, **settings), job)
    return [phase for phase in cost.phases if phase.network == name]


def agree(phase: Phase, measured: Measured, batch: int = 1) -> None:
    assert phase.flop * batch == pytest.approx(measured.flop, rel=0.02)
    assert phase.activation_bytes == pytest.approx(measured.peak_bytes, rel=0.05)


@pytest.mark.parametrize(("repository", "frames", "width", "height"), [(I2V, 81, 1280, 720), (TI2V, 121, 1280, 704)])
def test_wan(repository: str, frames: int, width: int, height: int) -> None:
    net = network(repository, "transformer")
    request = WanRequest(num_frames=frames)
    (phase,) = phases("wan", repository, Job(request, width * height), "transformer")
    factor = 16 if repository == TI2V else 8
    latents = (frames - 1) // 4 + 1, height // factor, width // factor
    times = tokens(1, latents[0] * latents[1] * latents[2] // 4) if repository == TI2V else tokens(1)
    given = empty(1, net.config.in_channels, *latents)
    agree(phase, measure(lambda: net(given, times, empty(1, 512, 4096), return_dict=False)[0]))
    assert phase.passes == 80


@pytest.mark.parametrize(("repository", "channels", "height", "width"), [(I2V, 16, 45, 80), (TI2V, 48, 22, 40)])
def test_wan_encodes_and_decodes(repository: str, channels: int, height: int, width: int) -> None:
    vae, factor = network(repository, "vae", FULL), 8 if channels == 16 else 16
    request = WanRequest(num_frames=17)
    encoding, decoding = phases("wan", repository, Job(request, height * width * factor**2), "vae")
    latents = empty(1, channels, 5, height, width, dtype=FULL)
    agree(decoding, measure(lambda: [part.shape for part in decode_wan(vae, latents)]))
    video = empty(1, 3, 17 if repository == I2V else 1, height * factor, width * factor, dtype=FULL)
    agree(encoding, measure(lambda: vae.encode(video).latent_dist.mean))


def test_flux() -> None:
    net = network(DEV, "transformer")
    (phase,) = phases("flux", DEV, Job(make_request("flux", prompt="p"), 1920 * 1088), "transformer")
    agree(phase, measure(lambda: net(**flux_inputs(net, 1920, 1088))[0]))


def test_flux_with_a_face() -> None:
    request = make_request("flux", prompt="p")
    (plain,) = phases("flux", DEV, Job(request, 1024 * 1024), "transformer")
    (faced,) = phases("flux", DEV, Job(request, 1024 * 1024, face=True), "transformer")
    control = network(INFINITE_YOU, "infu_flux_v1.0/aes_stage2/InfuseNetModel")
    net = network(DEV, "transformer")
    text = {"encoder_hidden_states": empty(1, 8, 4096), "txt_ids": empty(8, 3)}
    given = {**flux_inputs(net, 1024, 1024), **text, "controlnet_cond": empty(1, 4096, 64), "controlnet_mode": None}
    added = measure(lambda: control(**given, conditioning_scale=1.0))
    assert faced.flop - plain.flop == pytest.approx(added.flop, rel=0.03)
    assert faced.activation_bytes == pytest.approx(plain.activation_bytes + 14 * 4096 * 3072 * 2, rel=0.01)


def test_qwen_edit() -> None:
    net = network(EDIT_2509, "transformer")
    request = EditRequest(ttlg=Guidance(edge_scale=0))
    (phase,) = phases("qwen-edit", EDIT_2509, Job(request, 1024 * 1024, pictures=2), "transformer")
    text = 64 + 2 * 384 * 384 // 784
    measured = measure(
        lambda: net(
            hidden_states=empty(1, 4096 * 3, 64),
            timestep=empty(1),
            encoder_hidden_states=empty(1, text, 3584),
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, 64, 64)] * 3],
            return_dict=False,
        )[0]
    )
    agree(phase, measured)


def test_qwen_edit_decodes_and_is_guided() -> None:
    vae = network(EDIT_2509, "vae")
    job = Job(EditRequest(), 1024 * 1024)
    encoding, guiding, decoding = phases("qwen-edit", EDIT_2509, job, "vae", save_memory=False)
    agree(encoding, measure(lambda: vae.encode(empty(1, 3, 1, 1024, 1024)).latent_dist.mean))
    agree(decoding, measure(lambda: vae.decode(empty(1, 16, 1, 128, 128)).sample))
    decoder = StillDecoder(vae, torch.bfloat16, save_memory=False).to(META)
    picture = empty(1, 3, 1024, 1024, dtype=FULL)
    losses = Losses(Guidance(temporal_scale=1.0), Reference(sobel_edges(picture), None, picture), sobel_edges)

    def guide() -> Any:
        leaf = empty(1, 4096, 64, dtype=FULL).requires_grad_()
        found = losses.of(decoder(unpacked(leaf, 128, 128)) * 0.5 + 0.5)
        return torch.autograd.grad(torch.stack(list(found.values())).sum(), leaf)

    with torch.enable_grad():
        agree(guiding, measure(guide))
    assert guiding.passes == 40


@pytest.mark.parametrize(("frames", "width", "height"), [(25, 1024, 576)])
def test_svd(frames: int, width: int, height: int) -> None:
    unet = network(SVD_XT, "unet", HALF)
    request = make_request("svd", num_frames=frames)
    (phase,) = phases("svd", SVD_XT, Job(request, width * height), "unet")
    measured = measure(
        lambda: unet(
            empty(2, frames, 8, height // 8, width // 8, dtype=HALF),
            empty(1, dtype=FULL),
            encoder_hidden_states=empty(2, 1, 1024, dtype=HALF),
            added_time_ids=empty(2, 3, dtype=HALF),
            return_dict=False,
        )[0]
    )
    agree(phase, measured)


def test_svd_encodes_and_decodes_in_windows() -> None:
    request = make_request("svd", num_frames=25)
    encoding, decoding = phases("svd", SVD_XT, Job(request, 1024 * 576), "vae")
    vae, whole = network(SVD_XT, "vae", HALF), network(SVD_XT, "vae", FULL)
    picture = empty(1, 3, 576, 1024, dtype=FULL)
    agree(encoding, measure(lambda: whole.encode(picture).latent_dist.mean))
    agree(
        decoding, measure(lambda: [part.shape for part in decode_svd(vae, empty(1, 25, 4, 72, 128, dtype=HALF), 8, 3)])
    )


@pytest.mark.parametrize(("frames", "width", "height"), [(24, 576, 320)])
def test_text_to_video(frames: int, width: int, height: int) -> None:
    unet = network(MS, "unet", HALF)
    request = make_request("text-to-video", prompt="p", num_frames=frames)
    (phase,) = phases("text-to-video", MS, Job(request, width * height), "unet")
    latents = empty(2, 4, frames, height // 8, width // 8, dtype=HALF)
    text = empty(2, 77, 1024, dtype=HALF)
    agree(phase, measure(lambda: unet(latents, empty(1, dtype=HALF), encoder_hidden_states=text, return_dict=False)))


def test_hunyuan_dit() -> None:
    net = network(HUNYUAN, "transformer", HALF)
    request = make_request("hunyuan-dit", prompt="p")
    (phase,) = phases("hunyuan-dit", HUNYUAN, Job(request, 1024 * 1024), "transformer")
    rotary = empty(4096, 88, dtype=FULL), empty(4096, 88, dtype=FULL)
    given: dict[str, Any] = {
        "encoder_hidden_states": empty(2, 77, 1024, dtype=HALF),
        "text_embedding_mask": tokens(2, 77),
        "encoder_hidden_states_t5": empty(2, 256, 2048, dtype=HALF),
        "text_embedding_mask_t5": tokens(2, 256),
        "image_meta_size": None,
        "style": None,
        "image_rotary_emb": rotary,
        "return_dict": False,
    }
    agree(phase, measure(lambda: net(empty(2, 4, 128, 128, dtype=HALF), empty(2, dtype=HALF), **given)[0]))


@pytest.mark.parametrize(("repository", "kind"), [(DEV, "flux"), (HUNYUAN, "hunyuan-dit")])
def test_pictures_are_decoded(repository: str, kind: str) -> None:
    request = make_request(kind, prompt="p")
    *_, phase = phases(kind, repository, Job(request, 1024 * 1024), "vae")
    vae = network(repository, "vae")
    latents = empty(1, vae.config.latent_channels, 128, 128)
    agree(phase, measure(lambda: vae.decode(latents).sample))


def test_internvl() -> None:
    net = network(INTERNVL, "")
    request = make_request("internvl", max_new_tokens=1)
    reading, _ = phases("internvl", INTERNVL, Job(request, 0, pictures=8), "")
    seen = measure(lambda: net.model.get_image_features(pixel_values=empty(8, 3, 448, 448)).pooler_output)
    prompt = empty(1, 8 * 256 + 216, 4096)
    read = measure(lambda: net(inputs_embeds=prompt, use_cache=True, logits_to_keep=1).logits)
    assert reading.flop == pytest.approx(seen.flop + read.flop, rel=0.02)


def test_text_encoders() -> None:
    checkpoint = find(DEV)
    for name, count in (("text_encoder", 77), ("text_encoder_2", 512)):
        net = network(DEV, name)
        measured = measure(lambda net=net, count=count: net(input_ids=tokens(1, count)).last_hidden_state)
        assert encode_text(checkpoint, name, count, 1).flop == pytest.approx(measured.flop, rel=0.02)


def test_real_esrgan() -> None:
    from spandrel.architectures.Compact import Compact

    with META:
        net = Compact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4, act_type="prelu").to(HALF)
    measured = measure(lambda: net(empty(4, 3, 320, 320, dtype=HALF)))
    pixels = 4 * 320 * 320
    assert 2 * 621_424 * pixels == pytest.approx(measured.flop, rel=0.02)
    assert TILE_ELEMENTS * 2 * pixels == pytest.approx(measured.peak_bytes, rel=0.05)
