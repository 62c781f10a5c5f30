"""XMP packets: writing the labels of a file, and reading those of any packet (ISO 16684-1).

Source of the names: IPTC Photo Metadata Standard 2025.1 (`Iptc4xmpExt`), Adobe's XMP specification, part 2.
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from composition.media.marks import aigc

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    aigc.PREFIX: aigc.NAMESPACE,
}
"""Prefix of each namespace → its name."""
SOURCE_TYPE = "Iptc4xmpExt:DigitalSourceType"
SYSTEM = "Iptc4xmpExt:AISystemUsed"
SYSTEM_VERSION = "Iptc4xmpExt:AISystemVersionUsed"
PROMPT = "Iptc4xmpExt:AIPromptInformation"
PROVIDER = "photoshop:Credit"
CREATOR_TOOL = "xmp:CreatorTool"
CREATED_AT = "xmp:CreateDate"
CONTENT_ID = "xmpMM:DocumentID"
AIGC = f"{aigc.PREFIX}:{aigc.KEY}"
PROPERTIES = (
    SOURCE_TYPE,
    SYSTEM,
    SYSTEM_VERSION,
    PROMPT,
    PROVIDER,
    CREATOR_TOOL,
    CREATED_AT,
    CONTENT_ID,
    AIGC,
)
"""The properties that are written and read."""
MAX_VALUE = 10_000
"""Maximum length of a value that is read, in characters."""
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold."""
REPLACEMENT = "\ufffd"
PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}"><rdf:Description rdf:about=""{namespaces}>'
    "{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


def build_packet(properties: Mapping[str, str]) -> bytes:
    """Return an XMP packet.

    Args:
        properties: name of each property, with its prefix, → its value.
    """
    prefixes = dict.fromkeys(name.partition(":")[0] for name in properties)
    packet = PACKET.format(
        rdf=RDF,
        namespaces="".join(f' xmlns:{prefix}="{NAMESPACES[prefix]}"' for prefix in prefixes),
        properties="".join(
            f"<{name}>{escape(FORBIDDEN.sub(REPLACEMENT, value))}</{name}>" for name, value in properties.items()
        ),
    )
    return packet.encode()


def parse_packet(packet: bytes) -> dict[str, str]:
    """Return the properties of PROPERTIES that a packet has. The packet may be anything; what is not XML has none."""
    parser = ET.XMLParser(target=_WithoutDoctype())  # noqa: S314 - without entities; runs in a decoder process
    try:
        parser.feed(packet.strip(b"\0 \t\r\n"))
        root = parser.close()
    except (ET.ParseError, LookupError, ValueError):  # LookupError: an unknown encoding
        return {}
    names = {_expand_name(name): name for name in PROPERTIES}
    found: dict[str, str] = {}
    for description in root.iter(f"{{{RDF}}}Description"):
        for name, value in description.attrib.items():
            if name in names:
                found.setdefault(names[name], value[:MAX_VALUE])
        for element in description:
            if element.tag in names:
                found.setdefault(names[element.tag], _read_value(element)[:MAX_VALUE])
    return found


class _WithoutDoctype(ET.TreeBuilder):
    """Refuses document types, with which a packet could define entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("XMP has no document type")


def _expand_name(name: str) -> str:
    """Return a name as ElementTree does, with its namespace in braces."""
    prefix, _, local = name.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


def _read_value(element: ET.Element) -> str:
    """Return the value of a property: a text, a resource, or the first of several."""
    first = next(element.iter(f"{{{RDF}}}li"), element)
    return first.get(f"{{{RDF}}}resource") or (first.text or "").strip()
