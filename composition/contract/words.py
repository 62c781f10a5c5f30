"""Descriptions of the limits, defaults and types of fields, for help texts and tables."""

from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from composition.contract.definitions import Field

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
_MEDIA = {"video": "a video", "image": "a picture", "pictures": "pictures", "sound": "a sound"}


def describe_limits(field: Field) -> str:
    """Return the range of a field's values; empty if there is no limit."""
    if field.media is not None:
        return ""
    return next((text for option in _options(field) if (text := _describe_range(option))), "")


def describe_default(field: Field) -> str:
    """Return the default of a field; empty if there is none, or if it is not a simple value."""
    default = field.info.default
    if field.info.is_required() or default in (None, "", (), PydanticUndefined) or field.info.default_factory:
        return ""
    if isinstance(default, BaseModel):
        return "on" if any(option.get("type") == "boolean" for option in _options(field)) else ""
    if isinstance(default, bool):
        return str(default).lower()
    text = _show(default) if isinstance(default, int | float) else str(default)
    return text if text.strip() else "a blank"


def describe_type(field: Field) -> str:
    """Return the type of a field."""
    if field.media is not None:
        words = "".join(f"`{word}`, " for word in field.words)
        return f"{words.removesuffix(', ')} or {_MEDIA[field.media]}" if words else _MEDIA[field.media]
    words = [_word(option) for option in _options(field) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(words))


def _options(field: Field) -> list[dict[str, Any]]:
    """Return the JSON schemas of the alternatives of a field."""
    return cast("list[dict[str, Any]]", field.schema.get("anyOf", [field.schema]))


def _describe_range(schema: dict[str, Any]) -> str:
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
        if low in schema and high in schema:
            return f"{_show(schema[low])} to {_show(schema[high])}{unit}"
    parts = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} entries",
    }
    return ", ".join(text.format(_show(schema[name])) for name, text in parts.items() if name in schema)


def _show(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def _word(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if schema.get("type") == "array":
        inner = schema.get("items", {})
        return f"list of {' or '.join(_word(each) for each in inner.get('anyOf', [inner]))}" if inner else "list"
    return _TYPES.get(str(schema.get("type")), "object")
