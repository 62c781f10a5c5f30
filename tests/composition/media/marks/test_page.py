"""The table of docs/marks.md: each field that it names is in a finished file, and each field of a file is named."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from composition.media.marks import xmp
from composition.media.marks.label_reading import read_labels
from composition.media.marks.labels import read_system_version
from composition.media.marks.marker import Marker
from composition.media.marks.provenance import Ingredient
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATION
from tests.composition.media.marks.generated import KINDS, PROVENANCE, form_of, write_file
from tests.composition.media.marks.samples import get_active, get_assertion, read_store

PAGE = Path(__file__).parents[4] / "docs" / "marks.md"
HEADER = "| fact | C2PA manifest | XMP | `AIGC` |"
SETTINGS = MarksSettings(provider="Example", prompts=True)
SYSTEM = f"reelgraph {read_system_version()}"
FACTS: Mapping[str, Any] = {
    "it was generated": (COMPOSITE, "1"),
    "the provider's name": "Example",
    "the system's name": "reelgraph",
    "the system's version": read_system_version(),
    "the program": SYSTEM,
    "the time": ("2026-08-02T12:30:15Z", "2026-08-02T12:30:15+00:00"),
    "a unique id": PROVENANCE.content_id,
    "the graph or model that was asked for": "v2v",
    "the stages": ["animate"],
    "the models, with source and revision": [vars(PROVENANCE.models[0])],
    "the LoRA files, with SHA-256": [{"name": "ink", "sha256": "c" * 64}],
    "the seed": 7,
    "the user's files": "input_video",
    "how many of them are deleted": 1,
    "the prompts, only with `marks.prompts`": PROVENANCE.prompts["prompt"],
}
"""Row of the table → the value, or values, that a file has."""


def read_table() -> dict[str, tuple[str, str, str]]:
    """Return the rows of the table: fact → the fields in the manifest, in XMP and in `AIGC`; empty if there is none."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"{HEADER}\n")
    rows = re.findall(r"^\| (.+?) \| (.*?) \| ?(.*?) ?\| ?(.*?) ?\|$", rest.partition("\n\n")[0], re.M)
    return {fact: (manifest.strip("` "), shown.strip("` "), aigc.strip("` ")) for fact, manifest, shown, aigc in rows}


def read_manifest(path: Path, kind: str) -> dict[str, Any]:
    """Return the fields of the manifest by the names in the table."""
    store = read_store(path, form_of(kind))
    fields = dict(get_assertion(store, GENERATION))
    (action,) = [each for each in get_assertion(store, "c2pa.actions.v2")["actions"] if "digitalSourceType" in each]
    program = get_active(store)["claim_generator_info"][0]
    fields["inputs"] = fields["inputs"][0]["field"]
    fields["prompts"] = fields["prompts"]["prompt"]
    return {
        **fields,
        "digitalSourceType": action["digitalSourceType"],
        "claim_generator_info": f"{program['name']} {program['version']}",
    }


def read_xmp(path: Path) -> Mapping[str, str]:
    data = path.read_bytes()
    begin = data.rindex(b"<x:xmpmeta")
    return xmp.parse_packet(data[begin : data.index(b"</x:xmpmeta>", begin) + len(b"</x:xmpmeta>")])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_has_the_fields_of_the_table(kind: str, tmp_path: Path) -> None:
    person = tmp_path / "person.png"
    person.write_bytes(write_file("png", tmp_path).read_bytes())
    given = (Ingredient("input_video", person),)
    provenance = replace(PROVENANCE, loras={"ink": "c" * 64}, ingredients=given, lost_ingredients=1)
    path = write_file(kind, tmp_path)
    await Marker(SETTINGS, tmp_path).mark_file(path, form_of(kind), provenance)
    sources = (read_manifest(path, kind), read_xmp(path), read_labels(path)["aigc"])

    table = read_table()
    assert list(table) == list(FACTS)
    for fact, names in table.items():
        expected = FACTS[fact] if isinstance(FACTS[fact], tuple) else (FACTS[fact],)
        for name, source in zip(names, sources, strict=True):
            assert not name or source[name] in expected, f"{fact}: {name}"
    for place, source in enumerate(sources):
        named = {names[place] for names in table.values()}
        assert {name for name, value in source.items() if value} - named - {xmp.AIGC} == set()
