"""Loss guidance: correct gradients, falling losses, and the mistakes that would disable it."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from services.errors import ConfigError, ModelFailed
from services.qwen_edit.decoders import StillDecoder, TinyDecoder, shrunk, unpacked
from services.qwen_edit.guidance import (
    Losses,
    LossGuidance,
    Reference,
    Update,
    Vgg16Features,
    averaged,
    edge_loss,
    fitted,
    gram_loss,
    gram_matrix,
    laplacian_edges,
    resized,
    sobel_edges,
    temporal_loss,
)
from services.qwen_edit.request import Guidance
from services.qwen_edit.self_test import Finding, findings, small_vae

SIDE = 64


@pytest.fixture(scope="module")
def vae() -> Any:
    return small_vae()


@pytest.fixture(scope="module")
def vgg16() -> Vgg16Features:
    return Vgg16Features("random")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stripes(period: int = 16) -> Tensor:
    """Return vertical bars, (1, 3, SIDE, SIDE) in [0, 1]."""
    bars = (torch.arange(SIDE) // (period // 2) % 2).float()
    return bars.expand(1, 3, SIDE, SIDE).clone()


# Gradients.

FOUND = {finding.name: finding for finding in findings()}


@pytest.mark.parametrize("finding", FOUND.values(), ids=FOUND)
def test_every_gradient_agrees_with_finite_differences(finding: Finding) -> None:
    assert finding.passed, finding


def test_the_check_itself_sees_a_wrong_gradient() -> None:
    assert not Finding("", 1.0, 1.0, 1.01).passed
    assert not Finding("", 1.0, 0.0, 0.0).passed


# Edges and losses.


@pytest.mark.parametrize("operator", [sobel_edges, laplacian_edges])
def test_edges_are_where_the_picture_changes(operator) -> None:
    edges = operator(stripes())
    assert edges.shape == (1, 1, SIDE, SIDE)
    assert edges[..., 3].max() == 0.0  # inside a bar
    assert edges[..., 7].min() > 0.5
    assert operator(torch.full((1, 3, 8, 8), 0.7)).max() == 0.0


def test_a_step_from_black_to_white_is_one() -> None:
    assert sobel_edges(stripes()).max() == pytest.approx(1.0, abs=0.01)


def test_the_edge_loss_heeds_where_and_not_how_strong() -> None:
    here, there = sobel_edges(stripes(16)), sobel_edges(stripes(16).roll(4, -1))
    assert edge_loss(here, here) < 1e-9
    assert edge_loss(0.1 * here, here) < 0.01
    assert edge_loss(there, here) == pytest.approx(2.0, abs=0.05)  # orthogonal edges
    assert edge_loss(torch.zeros_like(here), here) == pytest.approx(1.0, abs=0.01)  # the loss of a blank picture


def test_mse_of_unit_edges_is_two_less_twice_the_cosine() -> None:
    ours, theirs = noise(1, 1, 16, 16).abs(), noise(1, 1, 16, 16, seed=1).abs()
    cosine = F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
    assert edge_loss(ours, theirs) == pytest.approx(2 - 2 * float(cosine), rel=1e-3)


def test_gram_matrices_forget_the_place_and_keep_the_style(vgg16) -> None:
    features = noise(1, 5, 8, 8)
    gram = gram_matrix(features)
    assert torch.allclose(gram, gram_matrix(features.roll((3, 2), (2, 3))))
    assert torch.allclose(gram[0], features.flatten(2)[0] @ features.flatten(2)[0].T / (5 * 64))
    reference = vgg16.grams(stripes())
    assert gram_loss(reference, reference) == 0.0
    moved, other = vgg16.grams(stripes().roll(2, -1)), vgg16.grams(torch.rand(1, 3, SIDE, SIDE))
    assert gram_loss(moved, reference) < 0.1 * gram_loss(other, reference)


def test_vgg_features_are_those_of_the_four_layers(vgg16) -> None:
    shapes = [tuple(features.shape) for features in vgg16(torch.rand(1, 3, 32, 48))]
    assert shapes == [(1, 64, 32, 48), (1, 128, 16, 24), (1, 256, 8, 12), (1, 512, 4, 6)]
    assert all((features >= 0).all() for features in vgg16(torch.rand(1, 3, 32, 48)))
    assert not any(weight.requires_grad for weight in vgg16.parameters())
    assert {weight.dtype for weight in vgg16.parameters()} == {torch.float32}


def test_vgg_from_a_file_of_torchvision(tmp_path, vgg16) -> None:
    from torchvision.models import vgg16 as torchvision_vgg16

    with torch.device("meta"):
        shell = torchvision_vgg16(weights=None).features
    state = {
        f"features.{name}": torch.full_like(weight, 0.01, device="cpu") for name, weight in shell.state_dict().items()
    }
    torch.save(state, tmp_path / "vgg16.pth")
    loaded = Vgg16Features(tmp_path / "vgg16.pth")
    assert all((weight == 0.01).all() for weight in loaded.layers.parameters())


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"no weights", None])
def test_a_file_with_other_weights_is_refused(tmp_path, content) -> None:
    path = tmp_path / "vgg16.pth"
    if content is None:
        torch.save({"features.0.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"vgg16: .*(is not torchvision's checkpoint|cannot be read|no weights by name)"
    ):
        Vgg16Features(path)


def test_sizes_shrink_by_averages_and_grow_by_repeating() -> None:
    picture = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    assert resized(picture, 1, 1).item() == 0.5
    assert set(resized(picture, 4, 4).unique().tolist()) == {0.0, 1.0}
    assert fitted(torch.zeros(1, 3, 30, 60), 20).shape == (1, 3, 10, 20)
    assert fitted(torch.zeros(1, 3, 30, 60), 100).shape == (1, 3, 30, 60)


def test_averages_are_of_areas() -> None:
    picture = torch.rand(1, 2, 30, 45, dtype=torch.float64)
    assert torch.allclose(averaged(picture, 10, 9), F.avg_pool2d(picture, (3, 5)))
    assert torch.allclose(averaged(torch.ones(1, 1, 7, 11), 3, 4), torch.ones(1, 1, 3, 4))
    steps = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 1, 3)
    assert averaged(steps, 1, 2).flatten().tolist() == pytest.approx([1 / 3, 5 / 3])


# Decoders.


def test_the_still_decoder_is_the_vae_without_its_clamp(vae) -> None:
    latents = 3 * noise(2, 4, 6, 8)
    with torch.no_grad():
        whole = vae.decode(latents[:, :, None]).sample[:, :, 0]
        ours = StillDecoder(vae, torch.float32)(latents)
    assert ours.abs().max() > 0.1
    assert torch.allclose(ours.clamp(-1, 1), whole, atol=1e-5)


def test_saving_memory_changes_no_gradient(vae) -> None:
    def gradient(*, save_memory: bool) -> Tensor:
        latents = noise(1, 4, 6, 8).requires_grad_()
        decoded = StillDecoder(vae, torch.float32, save_memory=save_memory)(latents)
        return torch.autograd.grad(decoded.square().sum(), latents)[0]

    assert torch.allclose(gradient(save_memory=True), gradient(save_memory=False), rtol=1e-5, atol=1e-7)


def test_the_decoder_respects_the_statistics_of_the_latents(vae) -> None:
    vae.register_to_config(latents_mean=[1.0, 0.0, -1.0, 2.0], latents_std=[2.0, 1.0, 0.5, 3.0])
    try:
        latents = noise(1, 4, 4, 4)
        mean, std = (
            torch.tensor(values).view(1, 4, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        with torch.no_grad():
            whole = vae.decode(latents[:, :, None] * std + mean).sample[:, :, 0]
            assert torch.allclose(StillDecoder(vae, torch.float32)(latents).clamp(-1, 1), whole, atol=1e-5)
    finally:
        vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)


def test_unpacking_is_the_pipelines(vae) -> None:
    from diffusers import QwenImageEditPlusPipeline

    latents = noise(1, 4, 6, 10)
    packed = QwenImageEditPlusPipeline._pack_latents(latents, 1, 4, 6, 10)
    assert torch.equal(unpacked(packed, 6, 10), latents)
    assert shrunk(latents, 0.5).shape == (1, 4, 4, 5)
    assert shrunk(latents, 1.0) is latents


def taehv_state() -> dict[str, Tensor]:
    """Return random weights in TAEHV's layout, with explicit numbering."""
    shapes = {"1": (256, 16, 3), "22": (3, 64, 3)}
    blocks = {**dict.fromkeys((3, 4, 5), 256), **dict.fromkeys((9, 10, 11), 128), **dict.fromkeys((15, 16, 17), 64)}
    grows = {7: (256, 256), 13: (256, 128), 19: (128, 64)}
    convs = {8: (128, 256), 14: (64, 128), 20: (64, 64)}
    state: dict[str, Tensor] = {}
    for index, (out, into, size) in shapes.items():
        state |= {f"decoder.{index}.weight": noise(out, into, size, size), f"decoder.{index}.bias": noise(out)}
    for index, channels in blocks.items():
        for conv, into in ((0, 2 * channels), (2, channels), (4, channels)):
            name = f"decoder.{index}.conv.{conv}"
            state |= {f"{name}.weight": 0.02 * noise(channels, into, 3, 3), f"{name}.bias": noise(channels)}
    state |= {f"decoder.{index}.conv.weight": noise(out, into, 1, 1) for index, (out, into) in grows.items()}
    return state | {f"decoder.{index}.weight": noise(out, into, 3, 3) for index, (out, into) in convs.items()}


def by_the_book(state: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Return the last frame that TAEHV decodes from one latent frame, with zero memory and temporal expansion."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, state.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    x = F.relu(conv(torch.tanh(latents / 3) * 3, "1"))
    for first, channels in ((3, 256), (9, 128), (15, 64)):
        for block in range(first, first + 3):
            hidden = torch.cat([x, torch.zeros_like(x)], 1)
            for layer in (0, 2):
                hidden = F.relu(conv(hidden, f"{block}.conv.{layer}"))
            x = F.relu(conv(hidden, f"{block}.conv.4") + x)
        grown = conv(F.interpolate(x, scale_factor=2), f"{first + 4}.conv")
        x = conv(grown[:, -channels:], str(first + 5))
    return conv(F.relu(x), "22") * 2 - 1


def test_the_tiny_decoder_reads_taehv(tmp_path) -> None:
    state = taehv_state()
    torch.save(state, tmp_path / "taew2_1.pth")
    latents = noise(1, 16, 4, 6).requires_grad_()
    made = TinyDecoder(tmp_path / "taew2_1.pth", torch.float32, 16)(latents)
    assert made.shape == (1, 3, 32, 48)
    assert torch.allclose(made, by_the_book(state, latents), rtol=1e-4, atol=1e-3 * float(made.detach().abs().max()))
    assert torch.autograd.grad(made.sum(), latents)[0].abs().sum() > 0


def test_a_file_that_is_no_taehv_is_refused(tmp_path) -> None:
    torch.save({"decoder.1.weight": torch.zeros(2, 2, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"tiny_decoder: .*other.pth is not a TAEHV checkpoint"):
        TinyDecoder(tmp_path / "other.pth", torch.float32, 16)
    with pytest.raises(ConfigError, match=r"tiny_decoder: .*cannot be read"):
        TinyDecoder(tmp_path / "missing.pth", torch.float32, 16)


@pytest.mark.parametrize(("latent", "output"), [(48, 12), (48, 3), (16, 12)])
def test_a_tiny_decoder_for_other_latents_is_refused(tmp_path, latent, output) -> None:
    state = taehv_state()
    state |= {"decoder.1.weight": noise(256, latent, 3, 3)}
    state |= {"decoder.22.weight": noise(output, 64, 3, 3), "decoder.22.bias": noise(output)}
    torch.save(state, tmp_path / "taew2_2.pth")
    said = f"tiny_decoder: .*taew2_2.pth decodes {latent} latent channels to {output} output channels"
    with pytest.raises(ConfigError, match=said):
        TinyDecoder(tmp_path / "taew2_2.pth", torch.float32, 16)


# Guidance.


class Scheduler:
    """A scheduler with the attributes that the guidance reads after a step."""

    def __init__(self, velocity: Tensor | None, sigma: float) -> None:
        self.sigmas = torch.tensor([1.0, sigma])
        self.step_index = 1
        if velocity is not None:
            self.velocity = velocity


class Pipe:
    def __init__(self, velocity: Tensor | None = None, sigma: float = 0.5, steps: int = 10) -> None:
        self.scheduler = Scheduler(velocity, sigma)
        self.num_timesteps = steps


def guidance(vae: Any, settings: Guidance | None = None, **more: Any) -> LossGuidance:
    decoder = StillDecoder(vae, torch.float32)
    settings = settings or Guidance()
    losses = Losses(settings, Reference(edges=sobel_edges(stripes())))
    return LossGuidance(settings, more.pop("decode", lambda x: decoder(x) * 0.5 + 0.5), losses, **more)


LATENTS = noise(1, 4, SIDE // 8, SIDE // 8, seed=3)
VELOCITY = noise(1, 4, SIDE // 8, SIDE // 8, seed=4)


def test_the_update_moves_x0_and_the_latents_by_their_share_of_it(vae) -> None:
    seen: list[Update] = []
    guide = guidance(vae, told=seen.append)
    moved = guide(Pipe(VELOCITY, sigma=0.4), 0, 0, {"latents": LATENTS})["latents"]
    x0 = LATENTS - 0.4 * VELOCITY
    assert (seen[0].moved - x0).square().mean().sqrt() == pytest.approx(0.05, rel=1e-4)
    assert torch.allclose(moved - LATENTS, 0.6 * (seen[0].moved - x0), atol=1e-6)


def test_lr_means_the_same_at_every_size(vae) -> None:
    for side in (4, 8, 16):
        decoder = StillDecoder(vae, torch.float32)
        losses = Losses(Guidance(), Reference(edges=sobel_edges(stripes())))
        guide = LossGuidance(Guidance(), lambda x, d=decoder: d(x) * 0.5 + 0.5, losses)
        x0 = noise(1, 4, side, side)
        assert (guide.descended(x0) - x0).square().mean().sqrt() == pytest.approx(0.05, rel=1e-4)


def test_every_sample_of_a_batch_moves_alike(vae) -> None:
    x0 = torch.cat([noise(1, 4, 8, 8), 0.01 * noise(1, 4, 8, 8, seed=1)])
    sizes = (guidance(vae).descended(x0) - x0).square().mean((1, 2, 3)).sqrt()
    assert sizes.tolist() == pytest.approx([0.05, 0.05], rel=1e-4)


def test_the_losses_fall(vae, vgg16) -> None:
    decoder = StillDecoder(vae, torch.float32)
    style, previous = vgg16.grams(stripes()), stripes()
    reference = Reference(sobel_edges(stripes()), style, previous)
    for name in ("edge", "gram", "temporal"):
        scales = {f"{other}_scale": float(other == name) for other in ("edge", "gram", "temporal")}
        settings = Guidance.model_validate({**scales, "lr": 0.1, "inner_steps": 12, "gram_size": SIDE})
        seen: list[float] = []
        LossGuidance(
            settings,
            lambda x: decoder(x) * 0.5 + 0.5,
            Losses(settings, reference, vgg16=vgg16),
            told=lambda update, name=name, seen=seen: seen.append(update.losses[name]),
        ).descended(LATENTS)
        assert seen[-1] < 0.95 * seen[0], name


def test_latents_come_back_in_their_own_dtype(vae) -> None:
    moved = guidance(vae)(Pipe(VELOCITY), 0, 0, {"latents": LATENTS.bfloat16()})["latents"]
    assert moved.dtype == torch.bfloat16
    assert not torch.equal(moved, LATENTS.bfloat16())


def test_without_a_velocity_only_the_last_steps_are_guided(vae) -> None:
    guide = guidance(vae)
    assert [step for step in range(40) if guide(Pipe(steps=40), step, 0, {"latents": LATENTS})] == [36, 37, 38, 39]
    guide = guidance(vae, Guidance(last_steps=2))
    assert [step for step in range(40) if guide(Pipe(steps=40), step, 0, {"latents": LATENTS})] == [38, 39]


@pytest.mark.parametrize(
    ("window", "steps"),
    [
        ({}, list(range(10))),
        ({"every": 4}, [0, 4, 8]),
        ({"start_step": 3, "end_step": 6, "every": 2}, [3, 5]),
        ({"last_steps": 3}, [7, 8, 9]),
        ({"last_steps": 6, "start_step": 5, "every": 3}, [5, 8]),
        ({"end_step": 99}, list(range(10))),
    ],
)
def test_the_window_of_guided_steps(vae, window, steps) -> None:
    guide = guidance(vae, Guidance(**window))
    assert [step for step in range(10) if guide.guides(step, 10)] == steps


def test_nothing_to_guide_by_changes_nothing(vae) -> None:
    assert guidance(vae, Guidance(edge_scale=0))(Pipe(VELOCITY), 0, 0, {"latents": LATENTS}) == {}


def test_a_black_target_has_no_gradient_that_is_not_finite(vae) -> None:
    decoder = StillDecoder(vae, torch.float32)
    losses = Losses(Guidance(), Reference(edges=torch.zeros(1, 1, SIDE, SIDE)))
    assert LossGuidance(Guidance(), lambda x: decoder(x) * 0.5 + 0.5, losses).descended(LATENTS).isfinite().all()


def test_a_flat_picture_is_left_alone() -> None:
    losses = Losses(Guidance(), Reference(edges=sobel_edges(stripes())))
    flat = LossGuidance(Guidance(), lambda x: x.mean((2, 3), keepdim=True).expand(-1, 3, SIDE, SIDE), losses)
    x0 = torch.ones(1, 3, 8, 8)
    assert torch.allclose(flat.descended(x0), x0, atol=0.051)
    assert flat.descended(x0).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stops_the_frame(vae, bad) -> None:
    decoder = StillDecoder(vae, torch.float32)
    guide = guidance(vae, decode=lambda x: decoder(x) * bad)
    with pytest.raises(ModelFailed, match="guidance: the edge loss is nan at step 3"):
        guide(Pipe(VELOCITY), 3, 0, {"latents": LATENTS})


def test_a_gradient_that_is_not_finite_stops_the_frame() -> None:
    losses = Losses(Guidance(edge_scale=0, temporal_scale=1), Reference(previous=torch.zeros(1, 3, 8, 8)))
    guide = LossGuidance(Guidance(edge_scale=0, temporal_scale=1), lambda x: x.abs().sqrt() + 1, losses)
    with pytest.raises(ModelFailed, match="guidance: the gradient is not finite at step 0"):
        guide(Pipe(torch.zeros(1, 3, 8, 8)), 0, 0, {"latents": torch.zeros(1, 3, 8, 8)})


def test_whoever_cancels_is_heard_before_every_update(vae) -> None:
    asked = []

    def between() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guidance(vae, Guidance(inner_steps=9), between=between).descended(LATENTS)
    assert len(asked) == 3


# Mistakes that would disable the guidance.


def test_alive_under_no_grad(vae) -> None:
    with torch.no_grad():
        moved = guidance(vae)(Pipe(VELOCITY), 0, 0, {"latents": LATENTS})["latents"]
    assert not torch.equal(moved, LATENTS)


def test_inference_mode_is_refused(vae) -> None:
    guide = guidance(vae)
    with torch.inference_mode(), pytest.raises(ModelFailed, match=r"torch.inference_mode\(\)"):
        guide(Pipe(VELOCITY), 0, 0, {"latents": LATENTS})
    with torch.inference_mode():
        latents = LATENTS + 0
    with pytest.raises(ModelFailed, match=r"torch.inference_mode\(\)"):
        guide(Pipe(VELOCITY), 0, 0, {"latents": latents})


def test_a_clamped_decode_is_dead_where_it_saturates(vae) -> None:
    decoder = StillDecoder(vae, torch.float32)

    def gradient(decode) -> Tensor:
        seen: list[Update] = []
        guide = guidance(vae, decode=decode, told=seen.append)
        return guide.descended(LATENTS) - LATENTS

    loud = lambda x: 40 * decoder(x) + 200  # noqa: E731 - far beyond white
    assert gradient(loud).abs().sum() > 0
    assert gradient(lambda x: loud(x).clamp(-1, 1) * 0.5 + 0.5).abs().sum() == 0


def test_detached_latents_are_noticed(vae) -> None:
    decoder = StillDecoder(vae, torch.float32)
    guide = guidance(vae, decode=lambda x: decoder(x.detach()))
    with pytest.raises(ModelFailed, match="no gradient can flow: the decoded picture is cut off"):
        guide(Pipe(VELOCITY), 0, 0, {"latents": LATENTS})


def test_without_torchvision_the_gram_loss_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['torchvision'] = sys.modules['torchvision.models'] = None\n"
        "from services.qwen_edit.guidance import Vgg16Features\n"
        "try: Vgg16Features('random')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "ConfigError vgg16: the Gram loss needs torchvision: pip install torchvision\n"


def test_the_temporal_loss_is_the_difference() -> None:
    assert temporal_loss(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4)) == pytest.approx(0.25)
    assert temporal_loss(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4), "l1") == pytest.approx(0.5)
