"""What the marks of a file say: the signed manifest, and the labels that nobody signs."""

from typing import Literal

from pydantic import BaseModel

from composition.media.marks.vocabulary import is_generated

ManifestState = Literal["trusted", "valid", "invalid"]
"""`valid` is intact and signed by the certificate it names; `trusted` if this certificate is also trusted."""


class MarkedModel(BaseModel):
    """A model that took part in making a file."""

    stage: str
    """Stage of the job."""
    model: str
    """Kind of the model."""
    source: str
    """Where its weights are from."""
    revision: str
    """Revision of the weights."""


class MarkedLora(BaseModel):
    """A LoRA that a model was used with."""

    name: str
    """Name in the request."""
    sha256: str
    """SHA-256 of its file, in hex."""


class MarkedAction(BaseModel):
    """What was done to a file, as its manifest says."""

    action: str
    """Name in C2PA, e.g. `c2pa.created`."""
    digital_source_type: str | None = None
    """IPTC's digital source type, an IRI."""
    when: str | None = None
    """Time of the action, as it is written in the manifest."""
    software: str | None = None
    """Name and version of the program."""
    description: str | None = None
    """What was done, in words."""


class MarkedIngredient(BaseModel):
    """A file that another one was made from."""

    title: str | None = None
    """Its name in the manifest."""
    format: str | None = None
    """Its media type."""
    relationship: str | None = None
    """`parentOf` if the file is an edited version of it, `inputTo` if a model was given it, or `componentOf`."""
    state: Literal["trusted", "valid", "invalid", "not_present"] = "not_present"
    """State of its own manifest, which is kept in that of the file: as it was when the file was signed, and as it is
    found now. `trusted` only if the signer of the file is trusted too."""
    issuer: str | None = None
    """Who signed its own manifest."""
    digital_source_type: str | None = None
    """IPTC's digital source type in its own manifest."""


class Manifest(BaseModel):
    """A C2PA manifest: what the signer of a file says about it.

    If `state` is `invalid`, anybody may have written or changed any of this.
    """

    state: ManifestState
    """Whether file and manifest are unchanged since they were signed, and whether the signer is trusted."""
    failures: list[str] = []
    """What failed, by C2PA's codes, e.g. `assertion.dataHash.mismatch`; also `signingCredential.untrusted`."""
    issuer: str | None = None
    """Organization in the signer's certificate."""
    generated_at: str | None = None
    """When the content was generated, UTC, in the form of RFC 3339."""
    generator: str | None = None
    """Name and version of the program that wrote the manifest."""
    title: str | None = None
    """Name of the content."""
    digital_source_type: str | None = None
    """IPTC's digital source type, an IRI."""
    provider: str | None = None
    """Provider of the system that generated the content."""
    content_id: str | None = None
    """Unique id of the content."""
    task: str | None = None
    """Name of the graph or the model that was asked for."""
    seed: int | None = None
    """Seed of the request."""
    models: list[MarkedModel] = []
    """Models that took part, in order."""
    loras: list[MarkedLora] = []
    """LoRAs that they were used with."""
    prompts: dict[str, str] = {}
    """Field of the request → prompt. Written only if the operator wants it."""
    actions: list[MarkedAction] = []
    """What was done, in order."""
    ingredients: list[MarkedIngredient] = []
    """Files that the content was made from."""

    @property
    def says_generated(self) -> bool:
        """Whether an intact manifest says that the content, or what it is an edited version of, was generated."""
        parents = [each for each in self.ingredients if each.relationship == "parentOf" and each.state != "invalid"]
        found = [self.digital_source_type, *(each.digital_source_type for each in parents)]
        return self.state != "invalid" and any(map(is_generated, found))


class MarkedLabels(BaseModel):
    """Labels in the metadata of a file. Nobody signs them: anybody may have written or changed them."""

    source_type: str | None = None
    """IPTC's `DigitalSourceType` in XMP, an IRI."""
    provider: str | None = None
    """Provider of the system (`photoshop:Credit`)."""
    system: str | None = None
    """Name of the system (`Iptc4xmpExt:AISystemUsed`)."""
    system_version: str | None = None
    """Version of the system (`Iptc4xmpExt:AISystemVersionUsed`)."""
    created_at: str | None = None
    """Time of creation, as it is written in the file (`xmp:CreateDate`)."""
    content_id: str | None = None
    """Unique id of the content (`xmpMM:DocumentID`)."""
    prompt: str | None = None
    """The prompts (`Iptc4xmpExt:AIPromptInformation`). Written only if the operator wants it."""
    aigc: dict[str, str] | None = None
    """The implicit label of GB 45438-2025: `Label`, `ContentProducer`, `ProduceID` and more."""


class MarksReport(BaseModel):
    """What the marks of a file say."""

    manifest: Manifest | None = None
    """The active manifest; None if there is none."""
    labels: MarkedLabels | None = None
    """The labels; None if there are none."""
