"""The common training loop, on a net that learns in a second."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from miniatures import train as command
from miniatures.muon import Muon
from miniatures.training import Budget, Refused, link_shared, train

CPU = torch.device("cpu")
BUDGET = Budget(steps=120)


class Lines:
    """Learns a matrix from noisy examples."""

    lr, adam_lr, steps = 0.05, 0.01, 120

    def __init__(self, _folder: Path | None = None, interrupted_at: int | None = None) -> None:
        torch.manual_seed(3)
        self.module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
        self._true = torch.randn(8, 8, generator=torch.Generator().manual_seed(4)) / 3
        self._left = interrupted_at

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        assert 0 <= progress < 1
        if self._left is not None:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
        x = torch.from_numpy(rng.standard_normal((64, 8))).float()
        return (self.module(x) - x @ self._true + 0.01 * torch.randn(64, 8)).square().mean()

    def save(self, folder: Path) -> None:
        torch.save(self.module.state_dict(), folder / "lines.pt")


def weights_of(recipe: Lines) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in recipe.module.parameters()])


def test_it_learns() -> None:
    recipe = Lines()
    before = recipe.loss(np.random.default_rng(0), 0).item()
    trained = train(recipe, 1, BUDGET, CPU)
    assert trained.steps == 120
    assert recipe.loss(np.random.default_rng(0), 0).item() < before / 5


def test_a_seed_is_a_result() -> None:
    one, same, other = Lines(), Lines(), Lines()
    for recipe, seed in ((one, 1), (same, 1), (other, 2)):
        train(recipe, seed, BUDGET, CPU)
    assert torch.equal(weights_of(one), weights_of(same))
    assert not torch.equal(weights_of(one), weights_of(other))


def test_a_training_that_was_cut_off_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, cut, rest = Lines(), Lines(interrupted_at=50), Lines()
    train(whole, 1, BUDGET, CPU)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(cut, 1, BUDGET, CPU, state, save_every_s=0)
    assert state.is_file()
    trained = train(rest, 1, BUDGET, CPU, state)
    assert trained.steps == 120
    assert torch.equal(weights_of(whole), weights_of(rest))
    for seed, budget, what in ((2, BUDGET, "seed 2, 120 steps"), (1, Budget(1, minutes=3), "seed 1, 3 minutes")):
        with pytest.raises(Refused, match=f"of seed 1, 120 steps, not of {what}"):
            train(Lines(), seed, budget, CPU, state)
    again = Lines()
    assert train(again, 1, BUDGET, CPU, state).steps == 120, "it was over"
    assert torch.equal(weights_of(whole), weights_of(again))


def test_minutes_end_it(tmp_path: Path) -> None:
    recipe = Lines()
    trained = train(recipe, 1, Budget(1, minutes=0.5 / 60), CPU)
    assert 0.5 <= trained.seconds < 5
    assert trained.steps > 1


def test_orthogonal_steps_have_the_size_of_the_rate() -> None:
    weight = nn.Parameter(torch.zeros(12, 12))
    weight.grad = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)) * 100
    Muon([weight], lr=0.1).step()
    sizes = torch.linalg.svdvals(weight.detach())
    assert sizes.max() < 0.13
    assert sizes.min() > 0.04


def test_every_part_names_a_recipe() -> None:
    for name, parts in command.PARTS.items():
        for part in parts:
            module = importlib.import_module(part.module)
            assert hasattr(module, part.recipe), (name, part)


def test_what_made_a_checkpoint_is_written_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "wan" / "training.json"
    command.make("wan", command.Part("vae", __name__, "Lines"), tmp_path, 3, Budget(5), "cpu")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {"scenes": 100}}))
    command.make("wan", command.Part("vae", __name__, "Lines"), tmp_path, 3, Budget(6), "cpu")
    assert json.loads(path.read_text())["scores"] == {}, "they were of other weights"
    card = json.loads(path.read_text())["parts"]["vae"]
    assert card["command"] == "python -m miniatures.train wan --part vae --steps 6 --seed 3"
    assert (card["seed"], card["steps"]) == (3, 6)
    assert card["device"].endswith("threads")
    assert sorted(file.name for file in path.parent.iterdir()) == ["lines.pt", "training.json"]


def test_a_part_goes_on_and_those_before_it_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(command, "make", lambda _name, part, *_: made.append(part.name))
    words = ["wan", "--out", str(tmp_path)]
    command.main(words)
    assert made == ["vae", "transformer"]
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / ".transformer.state").touch()
    command.main(words)
    assert made == ["vae", "transformer", "transformer"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps: invalid whole value: '0'"),
        (["--minutes", "-1"], "--minutes: invalid positive value: '-1'"),
        (["--threads", "0"], "--threads: invalid whole value: '0'"),
        (["--seed", "-1"], "--seed: must be 0 or more, got -1"),
        (["--part", "head"], "--part: must be one of vae, transformer, got head"),
        (["--part", "transformer", "--steps", "1"], "{}/wan/vae/config.json not found; train wan first"),
        (["--part", "transformer", "--device", "abacus"], "--device abacus: "),
    ],
)
def test_what_cannot_be_trained_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command.main(["wan", "--out", str(tmp_path), *words])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    assert message.format(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_two_checkpoints_share_is_a_link(tmp_path: Path) -> None:
    for name, content in (("one", b"same"), ("other", b"same"), ("third", b"else")):
        (tmp_path / name / "vae").mkdir(parents=True)
        (tmp_path / name / "vae" / "weights.safetensors").write_bytes(content)
    for _ in range(2):
        link_shared(tmp_path / "other" / "vae", tmp_path / "one" / "vae")
        assert (tmp_path / "other" / "vae").readlink() == Path("../one/vae")
    with pytest.raises(ValueError, match=r"weights\.safetensors differs from "):
        link_shared(tmp_path / "third" / "vae", tmp_path / "one" / "vae")
    assert (tmp_path / "third" / "vae" / "weights.safetensors").read_bytes() == b"else"
