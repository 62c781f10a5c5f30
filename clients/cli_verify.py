"""`reel verify`: what the marks of files say, and whether they are intact."""

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from reelgraph.checkout import has_server
from reelgraph.cli_resources import Address, connect
from reelgraph.errors import UnexpectedAnswer
from reelgraph.objects import ContentProvenanceCheck, Manifest, MarkedIngredient, MarkedLabels
from reelgraph.options import AsJson
from reelgraph.progress import make_display
from reelgraph.server import run_module

_UNMARKED = 1
"""Exit status if a file is not marked as generated, or its marks are not intact."""
_STATES: Mapping[str, str] = {
    "trusted": "intact, and signed by a trusted certificate",
    "valid": "intact, but signed by a certificate that is not trusted",
    "invalid": "NOT INTACT: the file or its manifest was changed after it was signed",
    "not_present": "no C2PA manifest",
}
_NAME_WIDTH = 14


def verify(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", exists=True, dir_okay=False, readable=True, help="Files to check."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Configuration file that names whom to trust (marks)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how files say that they were made, and check that nothing was changed since they were signed.

    A server that is named by --url or REELGRAPH_URL reads the files. Otherwise a checkout of reelgraph does it without
    a server. The exit status is 0 if each file has an intact C2PA manifest that says that it was generated, else 1.
    """
    checks = _ask_server(ctx, files) if _names_server(ctx, config) else _read_here(files, config)
    is_marked = True
    for path, check in zip(files, checks, strict=True):
        is_marked = is_marked and check.results[0].outcome == "detected"
        if as_json:
            typer.echo(json.dumps({"path": str(path), **check.model_dump()}))
        else:
            typer.echo("\n".join(describe_check(path, check)))
    if not is_marked:
        raise typer.Exit(_UNMARKED)


def _names_server(ctx: typer.Context, config: Path | None) -> bool:
    """Whether a server reads the files."""
    can_read_here = has_server() and importlib.util.find_spec("c2pa") is not None
    address = ctx.find_object(Address)
    is_named = address is not None and address.is_named
    return config is None and (is_named or not can_read_here)


def _ask_server(ctx: typer.Context, files: Sequence[Path]) -> Iterator[ContentProvenanceCheck]:
    screen = make_display(sys.stderr)
    with connect(ctx) as client:
        for path in files:
            with screen.show_transfer(f"upload {path.name}") as show:
                check = client.content_provenance_checks.create(path, on_progress=show)
            yield check


def _read_here(files: Sequence[Path], config: Path | None) -> Iterator[ContentProvenanceCheck]:
    """Yield what the server's code reads, one line for each file. Raises LocalServerFailed and UnexpectedAnswer."""
    options = ["--config", str(config)] if config is not None else []
    output = run_module("composition", "verify", *options, "--", *(str(path.absolute()) for path in files))
    for line in output.splitlines():
        try:
            yield ContentProvenanceCheck.model_validate_json(line)
        except ValidationError as error:
            raise UnexpectedAnswer(f"verify: {error}") from error


def describe_check(path: Path, check: ContentProvenanceCheck) -> list[str]:
    """Return the lines for one file. What a file says is shown without control characters."""
    rows = [("manifest", _STATES[check.results[0].validation_state])]
    if check.manifest is not None:
        rows += _list_manifest(check.manifest)
    if check.labels is not None:
        rows += _list_labels(check.labels)
    else:
        rows.append(("labels", "none"))
    outcome = "marked as generated" if check.results[0].outcome == "detected" else "not marked as generated"
    lines = [f"{path}: {outcome}", *(f"  {name:<{_NAME_WIDTH}}{value}" for name, value in rows if value)]
    return [_show_printable(line) for line in lines]


def _list_manifest(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.state == "invalid":
        yield "failed", ", ".join(manifest.failures)
    yield "signed by", manifest.issuer or ""
    yield "source type", manifest.digital_source_type or ""
    yield "generator", manifest.generator or ""
    yield "provider", manifest.provider or ""
    yield "time", manifest.generated_at or ""
    yield "id", manifest.content_id or manifest.title or ""
    yield from (("model", f"{use.stage}: {use.model}, {use.source} {use.revision}".rstrip()) for use in manifest.models)
    yield from (("LoRA", f"{lora.name}, SHA-256 {lora.sha256}") for lora in manifest.loras)
    yield "seed", "" if manifest.seed is None else str(manifest.seed)
    yield from (("prompt", f"{field}: {prompt}") for field, prompt in manifest.prompts.items())
    yield "actions", ", ".join(action.action for action in manifest.actions)
    yield from (("made from", _describe_ingredient(each)) for each in manifest.ingredients)


def _describe_ingredient(ingredient: MarkedIngredient) -> str:
    known = (ingredient.title, ingredient.format, ingredient.relationship, ingredient.digital_source_type)
    signer = f", signed by {ingredient.issuer}" if ingredient.issuer else ""
    return f"{', '.join(filter(None, known))}; {_STATES[ingredient.state]}{signer}"


def _list_labels(labels: MarkedLabels) -> Iterator[tuple[str, str]]:
    yield "labels", "not signed, anybody may have changed them"
    yield "  IPTC", labels.source_type or ""
    yield "  system", " ".join(filter(None, (labels.system, labels.system_version)))
    yield "  provider", labels.provider or ""
    yield "  time", labels.created_at or ""
    yield "  id", labels.content_id or ""
    yield "  prompt", labels.prompt or ""
    yield "  AIGC", ", ".join(f"{name} {value}" for name, value in (labels.aigc or {}).items() if value)


def _show_printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
