"""Text that can always be encoded. A provider may cut an emoji in two, and half a character breaks every encoder."""

from typing import Any


def repair_text(text: str) -> str:
    """Join surrogates that are a pair and put U+FFFD for a lone one; other text comes back as it is."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def repair_values(value: Any) -> Any:
    """A copy of dicts and lists with every text in them repaired; keys stay as they are."""
    kind: Any = value.__class__  # isinstance() would narrow to containers of unknown types
    if issubclass(kind, str):
        return repair_text(value)
    if issubclass(kind, dict):
        return {key: repair_values(item) for key, item in value.items()}
    return [repair_values(item) for item in value] if issubclass(kind, list | tuple) else value


class DeltaText:
    """Repairs a text that arrives in pieces: the pieces it gives join to what `repair_text` makes of the whole.

    A high surrogate at the end of a piece is held back until the next piece brings its other half.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be passed on after `piece`; empty while there is only half a character."""
        text = self._held + piece
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return repair_text(text.removesuffix(self._held))

    def flush(self) -> str:
        """What was held back: U+FFFD or nothing. The text has ended."""
        held, self._held = self._held, ""
        return repair_text(held)
