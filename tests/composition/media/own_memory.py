"""A budget of memory for the decoders of this test process alone: others, and servers, use the one of the machine."""

import tempfile

from composition.media.limits import MediaLimits

_folder = tempfile.TemporaryDirectory(prefix="reelgraph-memory-")
OWN_MEMORY = MediaLimits(node_memory_bytes=2 << 30, node_memory_folder=_folder.name)
"""The default limits, with the budget of an ordinary machine."""
