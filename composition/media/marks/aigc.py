"""The implicit label of generated content of GB 45438-2025: a JSON object under the key `AIGC`.

Source of the keys and of their meaning: GB 45438-2025, appendix E, as told by https://github.com/OPN48/cntc260; the
standard itself was not read.
"""

import json
from collections.abc import Mapping

KEY = "AIGC"
NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"
"""Namespace of the property in XMP."""
PREFIX = "TC260"
IS_GENERATED = "1"
"""Value of `Label`: the content is generated. `2` is may be, `3` is suspected to be."""
FIELDS = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
MAX_VALUE = 1000
"""Maximum length of a value that is read, in characters."""


def build_label(provider: str, content_id: str) -> str:
    """Return the label of generated content. Who passes it on is not known and left empty, as are the reserved codes.

    Args:
        provider: name of the provider of the system.
        content_id: unique id of the content.
    """
    known = {"Label": IS_GENERATED, "ContentProducer": provider, "ProduceID": content_id}
    return json.dumps(dict.fromkeys(FIELDS, "") | known, ensure_ascii=False, separators=(",", ":"))


def parse_label(text: str) -> Mapping[str, str] | None:
    """Return the fields of a label that anybody may have written; None if it is not a label."""
    try:
        label = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(label, dict) or "Label" not in label:
        return None
    return {name: str(label[name])[:MAX_VALUE] for name in FIELDS if isinstance(label.get(name), str | int)}  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
