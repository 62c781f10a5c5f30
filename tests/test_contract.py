"""One contract: the server's definitions, and what the client, the command line, OpenAPI and the docs say of them."""

import copy
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typer
from pydantic import BaseModel, Field

from composition.contract.definitions import (
    ANSWERS,
    QUERIES,
    Definition,
    define_graph,
    list_definitions,
    list_fields,
)
from composition.contract.files import ROOT, compare_files, render_files
from composition.contract.source import split_types
from composition.contract.words import describe_default, describe_limits
from composition.contract.write_fields import ARGUMENTS, name_fields
from composition.contract.write_objects import TAG, name_object
from composition.graphs.graph import Graph
from composition.graphs.request import GraphRequest
from composition.http.descriptions import find_classes
from composition.http.faces import FaceRequest
from composition.http.openapi import inline_schema, picture_body, video_schema
from composition.http.provenance import ProvenanceRequest
from composition.http.schemas import IMAGE_EVENTS
from composition.records.events import JOB_EVENTS
from reelgraph import fields as client_fields
from reelgraph import objects as client_objects
from reelgraph.about import About, Command
from reelgraph.cli import app
from reelgraph.cli_commands import make_command
from reelgraph.commands import COMMANDS
from reelgraph.faces import Faces
from reelgraph.provenance import ContentProvenanceChecks

Facts = dict[str, str]
"""What one side says of a field: `limits`, `default`, and whether it is `needed`."""
Side = dict[str, Facts]
"""Field, or `field.field` → what is said of it."""

DEFINITIONS = {each.name: each for each in list_definitions()}
JOBS = [each for each in DEFINITIONS.values() if each.command]
PAGE = (ROOT / "docs" / "requests.md").read_text(encoding="utf-8")
CHOSEN = {"models", "model", "input_reference"}
"""Fields that are said by `--model`, or by the option of what they stand for."""
SAID_OTHERWISE = {
    "edit": {"debug", "branch_from.video", "branch_from.frame"},
    "storyboard": {"script"},
}
"""Command → fields that its own options say: --save-debug-dir, --branch-from, SCRIPT.json."""
OWN_OPTIONS = {
    *("local", "as_json", "out", "model", "models", "help", "script", "branch_from"),
    *("out_video", "out_frames_dir", "metrics_out", "save_debug_dir", "image_out", "video_out"),
}
"""Parameters of commands that are no field of a request."""


def read_server(definition: Definition) -> Side:
    """The definition itself, with the fields of objects that are no lists."""
    found: Side = {}
    for field in definition.fields:
        needed = str(definition.needs(field))
        found[field.name] = {"limits": describe_limits(field), "default": describe_default(field), "needed": needed}
        kinds = [kind for kind in find_classes(definition.request) if _holds(field.schema, kind.__name__)]
        for inner in (inner for kind in kinds for inner in list_fields(kind)):
            facts = {"limits": describe_limits(inner), "default": describe_default(inner)}
            found[f"{field.name}.{inner.name}"] = {**facts, "needed": str(inner.info.is_required())}
    return found


def _holds(schema: Mapping[str, Any], name: str) -> bool:
    """Whether a field is an object of that class, and not a list of them."""
    options: list[Mapping[str, Any]] = schema.get("anyOf", [schema])
    return any(str(option.get("$ref", "")).endswith(f"/{name}") for option in options)


def read_client(definition: Definition) -> Side:
    """The TypedDict."""
    return dict(_read_table(getattr(client_fields, name_fields(definition.request))))


def _read_table(table: Any, prefix: str = "") -> Iterator[tuple[str, Facts]]:
    for name, hint in get_type_hints(table, include_extras=True).items():
        plain = get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint
        kind, about = get_args(plain)[:2]
        assert isinstance(about, About)
        needed = str(get_origin(hint) is Required)
        yield f"{prefix}{name}", {"limits": about.limits, "default": about.default, "needed": needed}
        members = [kind, *get_args(kind)]
        inner = next((member for member in members if is_typeddict(member)), None)
        if inner is client_objects.Identity or (inner is None and client_objects.Identity in members):
            yield from ((f"{prefix}{name}.{field}", {}) for field in client_objects.Identity.model_fields)
        elif inner is not None:
            yield from _read_table(inner, f"{name}.")


def read_openapi(definition: Definition) -> Side:
    """The schema of the body."""
    request = definition.request
    if issubclass(request, GraphRequest):
        schema = video_schema(definition.name, request, inline_schema(request))
        del schema["properties"]["model"]
    else:
        schema = picture_body(request)["requestBody"]["content"]["application/json"]["schema"]
    return dict(_read_schema(schema))


def _read_schema(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Facts]]:
    for name, described in schema["properties"].items():
        assert described.get("description"), f"{prefix}{name} is not described"
        yield f"{prefix}{name}", {"needed": str(name in schema.get("required", []))}
        for option in described.get("anyOf", [described]):
            if "properties" in option:
                yield from _read_schema(option, f"{name}.")


def read_docs(definition: Definition, page: str = PAGE) -> Side:
    """The tables of the page."""
    found: Side = {}
    for name, facts in _read_rows(page, f"## {definition.name}"):
        found[name] = facts
        for inner in re.findall(r"^\[(\w+)\]\(#", facts.pop("type")):
            for each, within in _read_rows(page, f"### {inner}"):
                within.pop("type")
                found[f"{name}.{each}"] = within
    return found


def _read_rows(page: str, heading: str) -> Iterator[tuple[str, Facts]]:
    _, _, rest = page.partition(f"{heading}\n")
    table = re.split(r"\n#+ ", rest)[0]
    for line in table.splitlines():
        if line.startswith("| `"):
            name, kind, limits, default, text = (cell.strip() for cell in line.strip("|").split(" | "))
            assert text, f"{heading}: {name} has no meaning"
            needed = default == "required"
            plain = "" if default.startswith("required") else default
            facts = {"limits": limits, "default": plain, "needed": str(needed), "type": kind}
            yield name.strip("` |"), facts


def read_command(definition: Definition, server: Side) -> Side:
    """The parameters of the command, by the fields that their names say."""
    group = typer.main.get_command(app)
    command = vars(group)["commands"][definition.command]
    names = {name.replace(".", "_").replace("-", "_"): name for name in server}
    found: Side = {}
    for parameter in command.params:
        if parameter.name in OWN_OPTIONS or parameter.name.startswith("switch_"):
            continue
        field = names.get(parameter.name)
        facts: Facts = {"needed": str(parameter.required)}
        about = server.get(field or "", {})
        told = str(parameter.help).lower()
        facts |= {key: about[key] if about[key].lower() in told else told for key in ("limits", "default") if about}
        found[field or parameter.name] = facts
    return found


def expect_command(definition: Definition, server: Side) -> Side:
    """What the command must have of the server's fields: objects are asked for by their fields."""
    left_out = CHOSEN | SAID_OTHERWISE.get(definition.command, set())
    media = getattr(definition.request, "REFERENCE", "")
    expected: Side = {}
    for name, facts in server.items():
        outer, _, inner = name.partition(".")
        inside = any(other.startswith(f"{name}.") for other in server)
        from_file = outer in ("identity", "script")
        if outer in left_out or name in left_out or (inner and from_file):
            continue
        required = name == media and definition.request.model_fields[name].is_required()
        needed = "True" if required else "False" if inner else facts["needed"]
        if not inside or from_file:
            expected[name] = {**facts, "needed": needed}
    return expected


def find_differences(name: str, server: Side, side: str, told: Side) -> list[str]:
    """Say, field by field, what another side lacks, has too much or says otherwise."""
    found = [f"{name}: {side} lacks {field}" for field in server.keys() - told.keys()]
    found += [f"{name}: {side} has {field}, which the server has not" for field in told.keys() - server.keys()]
    for field in sorted(server.keys() & told.keys()):
        for key in server[field].keys() & told[field].keys():
            if server[field][key] != told[field][key]:
                found.append(f"{name}.{field}: {key} is {server[field][key]!r}, and in {side} {told[field][key]!r}")
    return sorted(found)


def compare_command(definition: Definition) -> list[str]:
    server = read_server(definition)
    told = read_command(definition, server)
    return find_differences(definition.name, expect_command(definition, server), "the command", told)


def test_what_is_generated_is_up_to_date() -> None:
    differences = compare_files()
    assert not differences, "run `make generate`:\n" + "\n".join(differences.values())


@pytest.mark.parametrize("seed", ["1", "2"])
def test_it_is_generated_the_same_everywhere_and_without_what_runs_models(seed: str) -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'ray'}"
    code = (
        f"import sys; from composition.contract.files import *; print([*compare_files(), *{heavy} & {{*sys.modules}}])"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name, each in DEFINITIONS.items() if each.request not in ARGUMENTS])
def test_the_client_knows_every_field(name: str) -> None:
    definition = DEFINITIONS[name]
    assert find_differences(name, read_server(definition), "the client", read_client(definition)) == []


def test_a_face_is_found_with_every_field() -> None:
    arguments = set(inspect.signature(Faces.find).parameters) - {"self", "on_progress"}
    assert arguments == {field.name for field in list_fields(FaceRequest)}


def test_marks_are_read_with_every_field() -> None:
    arguments = set(inspect.signature(ContentProvenanceChecks.create).parameters) - {"self", "on_progress"}
    assert arguments == {field.name for field in list_fields(ProvenanceRequest)}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_openapi_has_every_field(name: str) -> None:
    definition = DEFINITIONS[name]
    assert find_differences(name, read_server(definition), "OpenAPI", read_openapi(definition)) == []


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_docs_have_every_field(name: str) -> None:
    definition = DEFINITIONS[name]
    assert find_differences(name, read_server(definition), "the docs", read_docs(definition)) == []


@pytest.mark.parametrize("definition", JOBS, ids=lambda each: each.command)
def test_the_command_has_every_field(definition: Definition) -> None:
    assert compare_command(definition) == []


def test_every_graph_and_kind_has_a_command() -> None:
    expected = [
        command
        for each in JOBS
        for command in ((each.command, each.names[0]), *((more.name, more.model) for more in each.role_commands))
    ]
    assert [(each.name, each.model) for each in COMMANDS] == expected
    names = [each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands]
    assert len(names) == len(set(names)), names


@pytest.mark.parametrize("kind", QUERIES, ids=lambda kind: kind.__name__)
def test_queries_are_the_same(kind: type[BaseModel]) -> None:
    told = get_type_hints(getattr(client_fields, name_fields(kind)))
    assert set(told) == {field.name for field in list_fields(kind)}


def fields_of(kind: type[BaseModel]) -> set[str]:
    return set(kind.model_fields) - {TAG}


@pytest.mark.parametrize(
    "kind", dict.fromkeys(inner for each in ANSWERS for inner in find_classes(each)), ids=lambda kind: kind.__name__
)
def test_the_client_knows_every_answer(kind: type[BaseModel]) -> None:
    known = getattr(client_objects, name_object(kind))
    number = {"id"} if kind in JOB_EVENTS else set[str]()  # of the event, which its stream tells
    assert fields_of(known) == fields_of(kind) | number
    assert all(field.text for field in list_fields(kind) if field.name != TAG), f"{kind.__name__}: a field has no text"


def test_the_client_knows_every_event() -> None:
    known = {**client_objects.EVENTS, **client_objects.IMAGE_EVENTS}
    assert list(known) == [kind.KIND for kind in (*JOB_EVENTS, *IMAGE_EVENTS)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda side: side.pop("ttlg.lr"), "rolling-edit: the copy lacks ttlg.lr"),
        (lambda side: side.update(strenght={}), "rolling-edit: the copy has strenght, which the server has not"),
        (
            lambda side: side["steps"].update(limits="2 to 100"),
            "rolling-edit.steps: limits is '2 to 1000', and in the copy '2 to 100'",
        ),
        (
            lambda side: side["ttlg.lr"].update(default="0.5"),
            "rolling-edit.ttlg.lr: default is '0.05', and in the copy '0.5'",
        ),
        (
            lambda side: side["branch_from.frame"].update(needed="False"),
            "rolling-edit.branch_from.frame: needed is 'True', and in the copy 'False'",
        ),
    ],
)
def test_a_difference_is_named(change: Any, told: str) -> None:
    server = read_server(DEFINITIONS["rolling-edit"])
    side = copy.deepcopy(server)
    change(side)
    assert find_differences("rolling-edit", server, "the copy", side) == [told]


def test_a_page_that_lacks_a_row_is_named() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `solver`"))
    told = read_docs(DEFINITIONS["v2v"], PAGE.replace(f"{row}\n", "", 1))
    server = read_server(DEFINITIONS["v2v"])
    assert find_differences("v2v", server, "the docs", told) == ["v2v: the docs lacks solver"]


class ToyRequest(GraphRequest):
    """Turn a clip round."""

    MEDIA = {"clip": "video", "marks": "pictures"}  # noqa: RUF012

    clip: str
    """What to turn."""
    marks: str | None = None
    """Where."""
    turns: Annotated[int, Field(ge=1, le=9)] = 2
    """How often."""


def test_what_is_added_to_the_catalogue_is_everywhere() -> None:
    toy = define_graph(Graph("toy", ToyRequest, "tests.test_contract:Toy", command="turn"))
    files = render_files([*list_definitions(), toy])
    names: dict[str, Any] = {}
    exec(files["clients/fields.py"], names)  # noqa: S102
    assert names["ToyFields"].__required_keys__ == {"clip"}
    assert names["PICTURES"] == {"edge_frames", "references", "marks"}
    assert 'model: Literal["toy"]' in files["clients/create.py"]
    assert 'name="turn"' in files["clients/commands.py"]
    row = "| `turns` | integer | 1 to 9 | 2 | How often. |"
    assert row in files["docs/requests.md"].partition("## toy\n")[2]
    own = typer.Typer()
    own.command("turn")(make_command(Command("turn", "toy", names["ToyFields"], "video", True, "Turn a clip.")))
    parameters = {each.name: each for each in typer.main.get_command(own).params}
    assert {"clip", "marks", "turns", "models", "out", "local"} <= parameters.keys()
    assert (parameters["clip"].required, parameters["clip"].opts) == (True, ["--clip"])
    assert vars(parameters["turns"])["help"] == "How often. 1 to 9; by default 2."


@pytest.mark.parametrize(
    ("source", "members"),
    [
        ("int", ["int"]),
        ("Sequence[Lora | str] | None", ["Sequence[Lora | str]", "None"]),
        ("A | Mapping[str, B | C] | D", ["A", "Mapping[str, B | C]", "D"]),
    ],
)
def test_a_union_is_split_outside_of_brackets(source: str, members: list[str]) -> None:
    assert split_types(source) == members


def test_a_file_that_was_edited_is_named(tmp_path: Path) -> None:
    for name in ("clients", "docs"):
        (tmp_path / name).mkdir()
    for name in ("clients/fields.py", "clients/objects.py", "clients/commands.py", "clients/create.py"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "docs" / "requests.md").write_text(PAGE.replace("| `solver` |", "| `sampler` |"), encoding="utf-8")
    (difference,) = compare_files(tmp_path).items()
    assert difference[0] == "docs/requests.md"
    assert "+| `solver` |" in difference[1]
