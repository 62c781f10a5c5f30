"""The colours that transparent pictures are composited on."""

import re

BASIC = {
    "aqua": "#00ffff",
    "black": "#000000",
    "blue": "#0000ff",
    "fuchsia": "#ff00ff",
    "gray": "#808080",
    "green": "#008000",
    "lime": "#00ff00",
    "maroon": "#800000",
    "navy": "#000080",
    "olive": "#808000",
    "purple": "#800080",
    "red": "#ff0000",
    "silver": "#c0c0c0",
    "teal": "#008080",
    "white": "#ffffff",
    "yellow": "#ffff00",
}
"""The basic colour names of CSS."""
HEX = re.compile(r"#[0-9a-f]{6}")


def check_background(text: str) -> str:
    """Return a background in lower case: `#rrggbb` or a basic colour name of CSS. Raises ValueError."""
    name = text.strip().lower()
    if name not in BASIC and not HEX.fullmatch(name):
        raise ValueError(f"must be #rrggbb, or one of {', '.join(BASIC)}; got {text[:40]!r}")
    return name


def parse_background(name: str) -> tuple[int, int, int]:
    """Return red, green and blue of a background, 0 to 255. Raises ValueError."""
    name = check_background(name)
    red, green, blue = bytes.fromhex(BASIC.get(name, name)[1:])
    return red, green, blue
