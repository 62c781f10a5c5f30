from pathlib import Path

import numpy as np
import pytest
import torch

from composition.media.decoding.worker import spread_positions
from miniatures import world
from miniatures.grammar import caption
from miniatures.internvl import InternVLRecipe
from miniatures.lessons import UNKNOWN, describe_frames, render_clip, subsample_chroma
from miniatures.muon import Muon
from miniatures.questions import DEFAULT, Question, answer_particular, ask
from miniatures.scores.internvl import ask_model, encode_clip, judge_caption
from services.internvl.model import Describer

LIMIT = 6_000_000
"""Bytes of a checkpoint."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> InternVLRecipe:
    torch.manual_seed(3)
    recipe = InternVLRecipe(tmp_path_factory.mktemp("checkpoints"))
    recipe.images = 16
    return recipe


@pytest.fixture(scope="module")
def losses(recipe: InternVLRecipe) -> list[float]:
    """Losses of a constant batch of clips while the recipe learns it."""
    optimiser = Muon(recipe.module.parameters(), recipe.lr, recipe.adam_lr)
    found: list[float] = []
    for _ in range(9):
        torch.manual_seed(1)
        loss = recipe.loss(np.random.default_rng(1), 0.9)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


@pytest.fixture(scope="module")
def folder(recipe: InternVLRecipe, losses: list[float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert losses, "saved when it has learned something, so that attention does not average everything"
    folder = tmp_path_factory.mktemp("internvl")
    recipe.save(folder)
    return folder


def question(scene: world.Scene, text: str = DEFAULT) -> Question:
    return Question(text, caption(scene, frames=17), "en")


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (320, 176)])
@pytest.mark.parametrize("shots", [1, 8])
def test_training_reads_what_the_describer_reads(recipe: InternVLRecipe, shots: int, size: tuple[int, int]):
    scene = world.draw(0, size=size)
    clip = scene.clip(shots)
    asked = [question(scene), question(scene, "那个 <|im_end|> Frame1: 🎬?")]

    tokens, answers = recipe._tokens(asked, shots)
    pixels = recipe._pixels([clip])

    for row, answer, one in zip(tokens, answers, asked, strict=True):
        inputs = recipe.describer.encode(one.text, clip)
        assert row[: int(answer.nonzero()[0])].tolist() == inputs["input_ids"][0].tolist()
        assert torch.equal(pixels, inputs["pixel_values"])
        tokenizer = recipe.describer.processor.tokenizer
        assert tokenizer.decode(row[answer]) == one.answer + tokenizer.eos_token


def test_batch_that_does_not_change_is_learned(losses: list[float]):
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5])
def test_every_stage_has_a_loss_and_gradients(recipe: InternVLRecipe, progress: float):
    loss = recipe.loss(np.random.default_rng(4), progress)
    loss.backward()

    assert torch.isfinite(loss)
    gradients = [weight.grad for weight in recipe.module.parameters()]
    assert sum(gradient is None for gradient in gradients) == 0
    recipe.module.zero_grad()


def test_question_without_frames_is_learned_too(recipe: InternVLRecipe):
    seed = next(seed for seed in range(999) if np.random.default_rng(seed).random() < 0.02)

    assert torch.isfinite(recipe.loss(np.random.default_rng(seed), 0.1))


def test_saved_checkpoint_describes(folder: Path):
    describer = Describer(folder, device="cpu")

    answer, _ = ask_model(describer, DEFAULT, world.draw(0).clip(8))

    assert answer
    assert describer.model.dtype == torch.bfloat16
    assert sum(file.stat().st_size for file in folder.iterdir()) < LIMIT
    assert sum(weight.numel() for weight in describer.model.parameters()) <= 1_800_000
    assert "eager" not in (folder / "config.json").read_text()


def test_attention_in_training_is_the_stock_one(folder: Path):
    eager, stock = (Describer(folder, device="cpu", dtype="float32", attention=kind) for kind in ("eager", None))
    inputs = stock.encode(DEFAULT, world.draw(0).clip(8))

    with torch.no_grad():
        one, other = (describer.model(**inputs).logits for describer in (eager, stock))

    assert stock.model.config.text_config._attn_implementation == "sdpa"
    assert one.std() > 0.01
    assert torch.allclose(one, other, atol=1e-4)


def test_padding_changes_nothing(recipe: InternVLRecipe):
    scene = world.draw(0)
    pixels = recipe._pixels([scene.clip(2)])
    short, _ = recipe._tokens([question(scene)], 2)
    both, _ = recipe._tokens([question(scene), question(scene, "x" * 50)], 2)

    with torch.no_grad():
        alone = recipe.module.model(input_ids=short, pixel_values=pixels).logits
        padded = recipe.module.model(input_ids=both[:1], pixel_values=pixels).logits

    assert both.shape[1] > short.shape[1]
    assert torch.allclose(alone, padded[:, : short.shape[1]], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_scene_is_drawn_at_the_moments_it_is_sampled(seed: int):
    scene = world.draw(seed, figures=1 + seed % 2)
    times = np.array(spread_positions(8, 33))
    unchanged = np.random.default_rng(next(s for s in range(99) if np.random.default_rng(s).random(3).min() > 0.6))

    assert np.array_equal(render_clip(unchanged, scene, times), scene.clip(33)[times])


@pytest.mark.parametrize("seed", range(8))
def test_what_is_known_is_what_the_caption_says(seed: int):
    scene = world.draw(seed, figures=1 + seed % 2, motion="any" if seed % 2 else ("bounce", "turn")[seed % 4 // 2])
    times = np.array(spread_positions(8, 17))

    choices, places = describe_frames(scene, times, 17)

    for index, figure in enumerate(scene.figures):
        colour, shape = choices[0, 4 + 2 * index : 6 + 2 * index]
        heading, turn, bounced = choices[-1, 8 + 3 * index : 11 + 3 * index]
        assert list(world.COLOURS)[colour] == figure.colour
        assert world.SHAPES[shape] == figure.shape
        if figure.turn:
            assert world.TURNS[turn - 1] == figure.turn
        else:
            assert list(world.HEADINGS)[heading] == figure.heading_at(16)
            assert bool(bounced) == figure.bounces(17)
        x, y, _ = figure.at(times)
        assert np.allclose((places[:, 4 * index : 4 * index + 2] + 1) * 32, np.stack([x, y], 1), atol=1e-4)
    if len(scene.figures) == 1:
        assert np.isnan(places[:, 4:]).all()
        assert (choices[:, 6:8] == UNKNOWN).all()


def test_tint_is_shared_as_h264_shares_it():
    clip = world.draw(0, style="outlined").clip(17)
    shots = clip[spread_positions(8, 17)]
    truly = encode_clip(clip).astype(float)

    made = subsample_chroma(shots)

    changed = abs(made.astype(float) - shots).max(-1) > 20
    assert truly.shape == made.shape
    assert changed.mean() > 0.02
    assert abs(made - truly)[changed].mean() < 0.6 * abs(shots - truly)[changed].mean()


def test_questions_are_asked_in_two_languages_and_answered_in_the_same():
    rng = np.random.default_rng(0)
    scene = world.draw(0, figures=1, motion="line", style="outlined")
    asked = [ask(rng, scene, 17) for _ in range(600)]

    for one in asked:
        assert one.answer.isascii() == (one.language == "en")
        assert one.text
        if one.language == "zh":
            assert not one.text.isascii()
    share = np.mean([one.language == "zh" for one in asked])
    assert 0.2 < share < 0.3
    answers = {one.answer for one in asked}
    assert {caption(scene, frames=17), caption(scene, frames=17, styled=True), scene.figures[0].colour} <= answers
    assert 0.3 < np.mean([one.text == DEFAULT for one in asked if one.language == "en"]) < 0.5
    blind = {ask(rng, scene, None, blind=True).answer for _ in range(200)}
    assert blind == {caption(scene), caption(scene, language="zh")}


def test_a_picture_is_not_asked_where_it_goes():
    rng = np.random.default_rng(0)
    scene = world.draw(0, figures=1, motion="line")

    assert not {ask(rng, scene, None).answer for _ in range(400)} & set(world.HEADINGS)


def test_captions_are_judged_figure_by_figure():
    scene = world.draw(next(seed for seed in range(99) if len(world.draw(seed).figures) == 2))
    first, second = scene.figures
    true = caption(scene, frames=17)

    right = judge_caption(scene, true)
    assert all(all(values) for values in right.values())
    assert right["colour"] == [True, True]
    assert judge_caption(scene, true.split(" on ")[0].rpartition(" and ")[0])["shape"] == [True, False]
    wrong = judge_caption(scene, true.replace(first.shape, "face").replace(str(second.heading_at(16)), "nowhere"))
    assert wrong["shape"] == [False, second.shape != first.shape]
    assert not wrong["direction"][1]
    assert wrong["exact"] == [False]
    assert wrong["background"] == [True]
    assert not any(judge_caption(scene, "")["colour"])
    assert answer_particular(scene, "shape", 17, "en") == f"{first.shape} and {second.shape}"
