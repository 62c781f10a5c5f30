"""Which frames of a video are read to get an impression of it."""

VERIFIED_FRAMES = 8
"""Number of evenly spread frames that are decoded to verify a file."""


def spread_positions(count: int, frames: int) -> list[int]:
    """Return `count` positions, the middles of equal parts of the video, or all positions if there are fewer frames.

    This is InternVL's sampling: https://huggingface.co/OpenGVLab/InternVL3-1B, `get_index`.
    """
    if count >= frames:
        return list(range(frames))
    part = (frames - 1) / count
    return [min(frames - 1, int(part / 2 + round(part * i))) for i in range(count)]
