"""Settings as a tree: weights and paths are found and replaced at any depth."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from composition.configuration.settings import ModelEntry
from services.settings import DEEPER, change_parts, root_paths, take_offline
from services.weights.weights import Weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REMOTE = Weights(repository="a/b", revision=COMMIT)


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True)

    weights: Weights = Weights(path=Path("/a"))
    size: int = 3


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True)

    weights: Weights
    identity: Inner | None = None
    several: tuple[Inner, ...] = ()
    listed: list[Inner] = []
    named: Mapping[str, Inner] = {}
    nested: Mapping[str, tuple[Mapping[str, Inner], ...]] = {}
    files: frozenset[Path] = frozenset()
    sizes: frozenset[int] = frozenset()


def test_all_weights_are_taken_offline():
    inner = Inner(weights=REMOTE)
    settings = Outer(
        weights=REMOTE,
        identity=inner,
        several=(inner, Inner(size=2)),
        listed=[inner],
        named={"a": inner},
        nested={"b": ({"c": inner},)},
        sizes=frozenset({1}),
    )
    found = take_offline(settings)
    weights: list[Weights] = []
    change_parts(found, lambda _, part: weights.append(part) if isinstance(part, Weights) else DEEPER)
    assert [each.offline for each in weights] == [True] * 7
    assert (type(found), type(found.several), type(found.listed)) == (Outer, tuple, list)
    assert found.several[1].size == 2
    assert take_offline(Outer(weights=REMOTE)).identity is None
    assert not settings.weights.offline
    assert not inner.weights.offline


def test_the_same_object_where_nothing_changes():
    settings = Outer(weights=REMOTE, named={"a": Inner()}, files=frozenset({Path("x")}))
    assert change_parts(settings, lambda _place, _part: DEEPER) is settings


def test_members_of_a_set_are_changed():
    settings = Outer(weights=REMOTE, files=frozenset({Path("x"), Path("y")}))
    changed = change_parts(settings, lambda _, part: Path("z") if part == Path("x") else DEEPER)
    assert changed.files == {Path("z"), Path("y")}


def test_a_place_is_where_a_part_is():
    settings = Outer(weights=REMOTE, several=(Inner(),), nested={"b": ({"c": Inner(size=7)},)})
    places: dict[tuple[Any, ...], int] = {}

    def note(place: tuple[Any, ...], part: Any) -> Any:
        if isinstance(part, int):
            places[place] = part
        return DEEPER

    change_parts(settings, note)
    found = {place: part for place, part in places.items() if part is not False}
    assert found == {("several", 0, "size"): 3, ("nested", "b", 0, "c", "size"): 7}


def test_relative_paths_are_taken_from_a_folder_and_all_else_stays_as_written():
    args: dict[str, Any] = {
        "weights": {"path": "checkpoints/wan", "files": ["*.json"]},
        "identity": {"weights": {"path": "/elsewhere"}, "size": "4"},
        "several": [{"weights": {"path": "../a"}}, {"size": 1}],
        "listed": [{"weights": {"path": "l"}}],
        "named": {"x": {"weights": {"path": "n"}}},
        "nested": {"b": [{"c": {"weights": {"path": "~/c"}}}, {"d": {"weights": {"path": "d"}, "size": "2"}}]},
        "files": ["one", "/two", "./one"],
        "sizes": [3, 1],
    }
    before = deepcopy(args)
    assert root_paths(args, Outer.model_validate(args), Path("/conf")) == {
        "weights": {"path": "/conf/checkpoints/wan", "files": ["*.json"]},
        "identity": {"weights": {"path": "/elsewhere"}, "size": "4"},
        "several": [{"weights": {"path": "/conf/../a"}}, {"size": 1}],
        "listed": [{"weights": {"path": "/conf/l"}}],
        "named": {"x": {"weights": {"path": "/conf/n"}}},
        "nested": {"b": [{"c": {"weights": {"path": "~/c"}}}, {"d": {"weights": {"path": "/conf/d"}, "size": "2"}}]},
        "files": ["/conf/one", "/two", "/conf/one"],
        "sizes": [3, 1],
    }
    assert args == before
    remote: dict[str, Any] = {"weights": {"repository": "a/b", "revision": COMMIT}, "identity": None}
    assert root_paths(remote, Outer.model_validate(remote), Path("/conf")) == remote


def test_the_block_of_a_model_is_seen_as_it_is_written():
    args = {"kind": "wan", "weights": {"path": "w"}, "defaults": {"steps": 4}}
    assert root_paths(args, ModelEntry.model_validate(args), Path("/conf")) == {**args, "weights": {"path": "/conf/w"}}
