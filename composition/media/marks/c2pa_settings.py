"""Settings of c2pa-rs, the library that writes and reads C2PA manifests."""

import json
from typing import Any


def make_settings(trust_anchors: str | None = None) -> str:
    """Return settings of c2pa-rs as JSON: nothing is fetched from a network, and no thumbnail is stored.

    Args:
        trust_anchors: certificates in PEM whose manifests are trusted.
    """
    settings: dict[str, Any] = {
        "version": 1,
        "core": {"allowed_network_hosts": []},
        "verify": {"verify_after_sign": False, "ocsp_fetch": False, "remote_manifest_fetch": False},
        "builder": {"thumbnail": {"enabled": False}, "generate_c2pa_archive": True},
    }
    if trust_anchors:
        settings["trust"] = {"trust_anchors": trust_anchors}
    return json.dumps(settings)
