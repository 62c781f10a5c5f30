"""The rooms: who may import whom, how large a file and a function may be, and where the environment is read."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("services", "composition", "clients", "miniatures")
PACKAGES = {"services", "composition", "reelgraph", "miniatures"}
"""What is imported of the rooms: `clients/` is the package `reelgraph`."""
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MODELS = sorted(path.name for path in (ROOT / "services").iterdir() if (path / "service.py").exists())

MEDIA = tuple(path.relative_to(ROOT).as_posix() for path in (ROOT / "composition" / "media").rglob("*.py"))

SPOKEN = ("__init__", "plan", "request", "service", "settings")
# How a model runs, in one file or several: all of its folder but these.
RUNNING = tuple(
    f"services/{model}/{path.name}"
    for model in MODELS
    for path in (ROOT / "services" / model).glob("*.py")
    if path.stem not in SPOKEN
)
SHARED_TORCH = tuple(f"services/{name}.py" for name in ("device", "pixels", "schedulers", "tensors"))

MINIATURES = tuple(path.relative_to(ROOT).as_posix() for path in (ROOT / "miniatures").rglob("*.py"))

TORCH = ("torch", "torchvision", "lpips", "diffusers", "transformers", "spandrel")

# Library → the only files that may import it.
ONLY_IN = {
    "ray": (
        "services/host.py",
        "composition/app.py",
        "composition/configuration/file.py",
        "composition/server/run.py",
        "composition/server/loopback.py",
        "composition/server/own_ray.py",
        "composition/server/deploying.py",
        "clients/handles.py",
    ),
    "fastapi": ("composition/http/ingress.py",),
    "av": (*MEDIA, "miniatures/clips.py"),
    "decord": MEDIA,
    **dict.fromkeys(TORCH, (*SHARED_TORCH, *RUNNING, *MINIATURES)),
}
MAY_ALSO = {
    "composition/app.py": ("host", "settings"),
    "composition/configuration/blocks.py": ("settings",),
    "composition/server/pull.py": ("settings", "weights"),
}
"""File of `composition` → what else of `services` it may import: what serves models, or brings weights here."""
LISTING = "services/catalogue.py"
"""The only file of `services` that may import the models."""
BAD_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its head or inside a function, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(path: Path, module: str) -> bool:
    """Whether the table of rooms lets this file import that module of the project."""
    room, *rest = path.relative_to(ROOT).parts
    target = module.split(".")
    if room == "miniatures":
        return True  # it sees the others from outside, as a test does
    if target[0] == "miniatures":
        return False
    if room == "services":
        own = name_of(path) == LISTING or (len(rest) > 1 and target[1] == rest[0])
        shared = len(target) > 1 and (target[1] == "weights" or (ROOT / "services" / f"{target[1]}.py").exists())
        return target[0] == "services" and (own or shared)
    if room == "composition":
        shared = (
            "frames",
            "errors",
            "limits",
            "allowance",
            "json_text",
            "loading",
            "model",
            "roles",
            "catalogue",
            "private",
            *MAY_ALSO.get(name_of(path), ()),
        )
        spoken = target[0] == "services" and target[1] in shared
        request = target[0] == "services" and target[2:3] == ["request"]
        return target[0] == "composition" or spoken or request
    spoken = ("composition", "services") if name_of(path) == "clients/handles.py" else ()
    return target[0] in ("reelgraph", *spoken)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_keep_to_the_rooms(path: Path) -> None:
    for module in imports(path):
        top = module.split(".")[0]
        assert top != "clients", f"{name_of(path)} must import {module} as reelgraph"
        if top in PACKAGES:
            assert allowed(path, module), f"{name_of(path)} must not import {module}"
        if top in ONLY_IN:
            assert name_of(path) in ONLY_IN[top], f"{name_of(path)} must not import {top}"


FLOORS = (
    {"variants"},
    {"media", "records"},
    {"graphs"},
    {"jobs"},
    {"configuration"},
    {"http"},
    {"graph_host"},
    {"app"},
    {"server"},
    {"__main__"},
)
"""The folders and files of `composition`, from the ground up: each imports only from its own and from those below."""


def test_imports_in_composition_go_one_way() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward: list[str] = []
    for path in (ROOT / "composition").rglob("*.py"):
        room = path.relative_to(ROOT / "composition").with_suffix("").parts[0]
        if room == "__init__":
            continue
        for module in imports(path):
            package, _, rest = module.partition(".")
            target = rest.partition(".")[0]
            if package == "composition" and target != room and floor[target] >= floor[room]:
                upward.append(f"{name_of(path)} must not import {module}")
    assert upward == []


def test_only_the_catalogue_names_a_graph() -> None:
    graphs = {path.parent.name for path in (ROOT / "composition" / "graphs").glob("*/graph.py")} - {"single"}
    naming: set[str] = set()
    for path in (ROOT / "composition").rglob("*.py"):
        for module in imports(path):
            package, _, rest = module.partition("composition.graphs.")
            if package == "" and rest.partition(".")[0] in graphs and path.parent.name not in graphs:
                naming.add(name_of(path))
    assert naming == {"composition/graphs/catalogue.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500, f"{name_of(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 40, f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"


def test_the_environment_is_read_in_five_files() -> None:
    reading = [name_of(path) for path in FILES if {"os.environ", "os.getenv"} & attributes(path)]
    server = {"composition/configuration/settings.py", "composition/server/own_ray.py", "services/host.py"}
    assert set(reading) <= {*server, "clients/cli.py", "clients/server.py"}


def attributes(path: Path) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def test_no_broad_except_outside_the_edges() -> None:
    broad = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and name_of(path) not in ("composition/jobs/runner.py", "composition/http/ingress.py")
    ]
    assert broad == []


def test_no_empty_names() -> None:
    assert [name_of(path) for path in FILES if path.stem in BAD_NAMES or path.parent.name in BAD_NAMES] == []


def test_each_model_folder_has_its_files_its_line_and_random_weights() -> None:
    listed = {module.removeprefix("services.") for module in imports(ROOT / LISTING)}
    for model in MODELS:
        files = {path.name for path in (ROOT / "services" / model).glob("*.py")}
        assert files >= {"__init__.py", "request.py", "settings.py", "service.py", "model.py"}, model
        assert model in listed, f"{LISTING} does not list {model}"
        assert f"miniatures/random/{model}.py" in MINIATURES, model


def test_every_import_is_of_a_declared_package() -> None:
    """What is imported is the standard library, the project, or a dependency that `pyproject.toml` names."""
    declared = (ROOT / "pyproject.toml").read_text()
    packages = {"yaml": "pyyaml", "PIL": "pillow", "decord": "decord2"}
    riding = {"starlette": "fastapi", "pydantic_core": "pydantic", "click": "typer", "scipy": "lpips"}
    riding |= dict.fromkeys(("huggingface_hub", "tokenizers"), "transformers")
    for path in FILES:
        for module in imports(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            package = riding.get(top) or packages.get(top, top)
            assert f'"{package.replace("_", "-")}' in declared, f"{name_of(path)} imports {top}"
