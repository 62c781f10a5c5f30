"""Which marks finished files carry, and with which certificate they are signed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
Algorithm = Literal["es256", "es384", "ps256", "ed25519"]


class VisibleLabel(BaseModel):
    """A label that people see, drawn into videos and pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: Annotated[str, Field(min_length=1, max_length=60)] = "AI-generated"
    corner: Corner = "bottom-right"
    height: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Height of the text as a share of the shorter side."""
    font: Path | None = None
    """TrueType or OpenType file with the letters of the text; the default font has English letters only."""


class SigningSettings(BaseModel):
    """The certificate that C2PA manifests are signed with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    """PEM file of the certificate chain, the signer's own certificate first."""
    key: Path | None = None
    """PEM file of the private key (PKCS#8, not encrypted)."""
    callback: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`module:function` instead of `key`: a function that takes bytes and returns their signature, e.g. by a PKCS#11
    token or a key management service."""
    algorithm: Algorithm = "es256"

    @model_validator(mode="after")
    def _check_key(self) -> "SigningSettings":
        if (self.key is None) == (self.callback is None):
            raise ValueError("give exactly one of key and callback")
        return self


class MarksSettings(BaseModel):
    """The marks of finished files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    c2pa: bool = True
    """Whether files carry a signed C2PA manifest."""
    source_type: bool = True
    """Whether files carry IPTC's `DigitalSourceType`, in XMP."""
    aigc: bool = True
    """Whether files carry the implicit label `AIGC` of GB 45438-2025."""
    prompts: bool = False
    """Whether manifests and XMP contain the prompts."""
    provider: Annotated[str, Field(min_length=1, max_length=200)] = "reelgraph"
    """Name of the provider of the system, in all marks."""
    signing: SigningSettings | None = None
    """The certificate to sign with; by default one that is made for this installation, which nobody else trusts."""
    trust_anchors: Path | None = None
    """PEM file of the certificates whose manifests are reported as trusted."""
    visible: VisibleLabel | None = None
    """A label that people see; by default none."""

    @property
    def has_labels(self) -> bool:
        """Whether files carry a label that is not signed."""
        return self.source_type or self.aigc

    @property
    def are_off(self) -> bool:
        """Whether files carry no mark in their metadata."""
        return not (self.c2pa or self.has_labels)


MARKS_OFF = MarksSettings(c2pa=False, source_type=False, aigc=False)
