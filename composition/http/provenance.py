"""`POST /v1/content_provenance_checks`: reads the marks of a file, in OpenAI's format with fields of our own."""

import time
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from composition.http.bodies import ONLY_ONE_MEDIA_VALUE, PENDING, BodySettings, read_body, take_media
from composition.http.uploads import Uploads
from composition.http.validation import parse_fields
from composition.media.limits import MediaKind
from composition.media.marks.report import Manifest, MarkedLabels, MarksReport
from composition.media.marks.settings import MarksSettings
from services.errors import InvalidParameter

FILE: Mapping[str, MediaKind] = {"file": "video"}
"""The field that holds the file. Nobody looks at its kind."""


class ProvenanceRequest(BaseModel):
    """Read the marks of a file."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {}
    """Empty: the file need not be of a kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """The file, of any kind: a file id, a data: URL, or a file of the form."""


class C2paResult(BaseModel):
    """What the C2PA manifest of a file says about its provenance."""

    type: Literal["c2pa"] = "c2pa"
    """Kind of signal."""
    outcome: Literal["detected", "not_detected"]
    """`detected` if an intact manifest says that the content was generated. Otherwise nothing is known: marks can be
    removed."""
    issuer: str | None
    """Organization that signed the manifest."""
    model: str | None
    """Models that generated the content, separated by commas."""
    generated_at: str | None
    """When the content was generated, UTC, in the form of RFC 3339."""
    validation_state: Literal["trusted", "valid", "invalid", "not_present"]
    """`valid` if file and manifest are as they were signed, `trusted` if the signer is also trusted."""


class ContentProvenanceCheckObject(BaseModel):
    """What the marks of a file say."""

    object: Literal["content_provenance_check"] = "content_provenance_check"
    created_at: int
    """Time of the check, in seconds since 1970, UTC."""
    results: list[C2paResult]
    """One result, of the C2PA manifest."""
    manifest: Manifest | None = None
    """The C2PA manifest; null if there is none."""
    labels: MarkedLabels | None = None
    """The labels that nobody signs; null if there are none."""


def describe_report(report: MarksReport) -> ContentProvenanceCheckObject:
    """Return the response for the marks of a file."""
    manifest = report.manifest
    result = C2paResult(
        outcome="detected" if manifest is not None and manifest.says_generated else "not_detected",
        issuer=manifest.issuer if manifest else None,
        model=", ".join(dict.fromkeys(use.model for use in manifest.models)) or None if manifest else None,
        generated_at=manifest.generated_at if manifest else None,
        validation_state=manifest.state if manifest else "not_present",
    )
    return ContentProvenanceCheckObject(
        created_at=int(time.time()), results=[result], manifest=manifest, labels=report.labels
    )


class ProvenanceRoutes:
    """Reads the marks of files; nothing is stored.

    Args:
        uploads: opens the files.
        bodies: limits of request bodies.
        settings: who is trusted.
    """

    def __init__(self, uploads: Uploads, bodies: BodySettings, settings: MarksSettings) -> None:
        self._uploads = uploads
        self._bodies = bodies
        self._settings = settings

    async def check_content(self, request: Request) -> ContentProvenanceCheckObject:
        """Read the marks of a file of any kind. Nothing is stored."""
        async with read_body(request, self._bodies) as body:
            media, fields = take_media(FILE, "", body)
            parse_fields(ProvenanceRequest, {**fields, **dict.fromkeys(media, PENDING)}, {})
            value = media["file"]
            if isinstance(value, list):
                raise InvalidParameter(f"file: {ONLY_ONE_MEDIA_VALUE}", param="file")
            return describe_report(await self._uploads.read_marks(value, request.state.owner, "file", self._settings))
