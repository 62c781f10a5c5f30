"""The kinds of faults that are looked for in videos."""

from typing import Literal, TypeAlias, get_args

FaultKind: TypeAlias = Literal["frozen", "flicker", "cut", "jump", "flat"]
"""`frozen`: the picture stops while the video moves before or after. `flicker`: brightness, colour or contrast goes up
and down. `cut`: another picture, where none was asked for. `jump`: the colours of the whole picture change at once.
`flat`: a picture of one colour, as a model makes it after an overflow (NaN)."""
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
