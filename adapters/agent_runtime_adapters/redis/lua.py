"""The scripts of this folder: each operation of a store is one of them, and so one step of the server."""

import hashlib
from importlib.resources import files
from typing import TypeAlias

import msgspec

Argument: TypeAlias = bytes | str | int | float
"""What a key or an argument of a script may be."""

_FOLDER = files("agent_runtime_adapters.redis").joinpath("scripts")


class Script(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A script, and the name by which a server knows it once it has seen it."""

    source: str
    sha: str


def script(name: str, *before: str) -> Script:
    """The script of the file `name`, with the files `before` put in front of it, behind its first line of flags."""
    flags, _, body = _text(name).partition("\n")
    source = "\n".join((flags, *map(_text, before), body))
    return Script(source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _text(name: str) -> str:
    return _FOLDER.joinpath(f"{name}.lua").read_text("utf-8")
