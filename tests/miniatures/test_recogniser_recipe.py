"""Training of the recogniser: it learns, it is small, and training and service read crops alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from miniatures.faces import KNOWN, draw_face
from miniatures.identity import load_recogniser
from miniatures.muon import Muon
from miniatures.recogniser import FILE, VIEWS, RecogniserRecipe, _crop, prepare_crops, vary_camera
from miniatures.scores.recogniser import compare_embeddings, find_face
from services.instantid.service import InstantId
from services.instantid.settings import InstantIdSettings
from services.weights.weights import Weights

PEOPLE = 6


@pytest.fixture(scope="module")
def recipe() -> RecogniserRecipe:
    torch.manual_seed(1)
    return RecogniserRecipe(Path(), people=PEOPLE)


def test_a_batch_is_learnt_and_what_was_learnt_is_served(recipe, tmp_path):
    def loss() -> torch.Tensor:
        torch.manual_seed(2)
        return recipe.loss(np.random.default_rng(2), 0.0)

    optimiser = Muon(list(recipe.module.parameters()), recipe.lr, recipe.adam_lr)
    before = loss().item()
    for _ in range(4):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < 0.8 * before

    recipe.save(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 1_000_000
    net = load_recogniser(tmp_path)
    learnt = recipe.module["net"].state_dict()
    for name, value in net.state_dict().items():
        if "running" not in name and "batches" not in name:
            assert torch.allclose(value, learnt[name], rtol=0.01, atol=0), name
    settings = InstantIdSettings(recogniser=Weights(path=tmp_path), recogniser_file=FILE, device="cpu")
    face = find_face(InstantId(settings, tmp_path, lambda: "instantid#test cpu"), draw_face(0, 0, 200))
    assert face is not None
    assert face.crop is not None
    embedding = net(prepare_crops(torch.from_numpy(face.crop.pixels)))[0].numpy()
    assert np.allclose(face.embedding, embedding, atol=1e-5)
    assert np.isclose(np.linalg.norm(embedding), 1, atol=1e-5)


def test_the_normalisations_fit_the_weights(recipe, tmp_path):
    recipe.save(tmp_path)
    weights = load_recogniser(tmp_path).state_dict()
    inputs = []
    net = load_recogniser(tmp_path)
    net.input_layer[1].register_forward_hook(lambda _layer, given, _out: inputs.append(given[0]))
    net(prepare_crops(recipe._crops))
    assert torch.allclose(inputs[0].mean((0, 2, 3)), weights["input_layer.1.running_mean"], atol=0.02)


def test_crops_are_upright_faces_of_people_who_are_not_known(recipe):
    assert recipe._crops.shape == (PEOPLE * VIEWS, 112, 112, 3)
    crops = recipe._crops.numpy().astype(int)
    one, other = crops[0], crops[VIEWS]
    assert np.abs(one - crops[1]).mean() < np.abs(one - other).mean()
    eyes = crops[:, 48:56, [*range(32, 46), *range(67, 81)]].mean((1, 2, 3))  # darker than the cheeks below them
    cheeks = crops[:, 64:72, [*range(32, 46), *range(67, 81)]].mean((1, 2, 3))
    assert (eyes < cheeks).mean() > 0.9
    first, known = (_crop(np.random.default_rng(5), who) for who in (KNOWN, 0))  # in the same view
    assert np.abs(one - first).mean() < np.abs(one - known).mean()


def test_light_and_noise_are_drawn_for_each(recipe):
    faces = prepare_crops(recipe._crops[:1]).repeat(3, 1, 1, 1)
    lit = vary_camera(np.random.default_rng(3), faces)
    assert lit.shape == faces.shape
    assert lit.abs().max() <= 1
    assert (lit[0].mean() - lit[1].mean()).abs() > 0.005
    assert lit.is_contiguous()


def test_blue_is_read_first():
    crop = torch.zeros(1, 112, 112, 3, dtype=torch.uint8)
    crop[..., 2] = 255
    read = prepare_crops(crop)
    assert read.amax((2, 3)).tolist() == [[1, -1, -1]]


def test_telling_apart_is_measured():
    one, other = np.eye(4, dtype=np.float32)[:2]
    between = (one + other) / np.sqrt(2)
    whose = np.array([0, 0, 1, 1])
    clear = compare_embeddings(np.stack([one, one, other, other]), whose)
    assert clear == {"triplets": 1.0, "nearest": 1.0, "same": 1.0, "other": 0.0}
    mixed = compare_embeddings(np.stack([one, other, one, other]), whose)
    assert mixed["triplets"] == 0
    assert mixed["nearest"] == 0
    assert 0 < compare_embeddings(np.stack([one, between, other, between]), whose)["triplets"] < 1
