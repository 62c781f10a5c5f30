"""Settings of c2pa-rs, the library that writes and reads C2PA manifests."""

import json
from typing import Any

COPY_MIB = 16
"""Size of a file up to which its copy is made in memory; that of a larger one is a temporary file."""
BLOCK_KIB = 4096
"""Size of the blocks of a large file."""


def make_settings(trust_anchors: str | None = None, *, has_blocks: bool = False) -> str:
    """Return settings of c2pa-rs as JSON: nothing is fetched from a network, and no thumbnail is stored.

    Args:
        has_blocks: whether the media data of an mp4 are hashed in blocks.
        trust_anchors: certificates in PEM whose manifests are trusted.
    """
    settings: dict[str, Any] = {
        "version": 1,
        "core": {"allowed_network_hosts": [], "backing_store_memory_threshold_in_mb": COPY_MIB},
        "verify": {"verify_after_sign": False, "ocsp_fetch": False, "remote_manifest_fetch": False},
        "builder": {"thumbnail": {"enabled": False}, "generate_c2pa_archive": True},
    }
    if has_blocks:
        settings["core"] |= {"merkle_tree_chunk_size_in_kb": BLOCK_KIB, "merkle_tree_max_proofs": 0}
    if trust_anchors:
        settings["trust"] = {"trust_anchors": trust_anchors}
    return json.dumps(settings)
