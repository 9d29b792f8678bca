"""Steps on one document: the expressions that several stores have in them, how they are made, and what comes back."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import msgspec
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from agent_runtime import CorruptRecord
from agent_runtime_adapters.mongodb.database import Clock, Document

Expression: TypeAlias = Any
"""What the server computes: a constant, a field as `"$name"`, or an operator with its operands."""

T = TypeVar("T")

LONGEST = 100 * 365 * 86_400_000
"""Milliseconds after which the server removes at the latest what lives longer."""


def now(clock: Clock | None) -> Expression:
    """Unix seconds: the server's, or the clock's."""
    return {"$divide": [{"$toLong": "$$NOW"}, 1_000.0]} if clock is None else {"$literal": clock()}


def lives(time: Expression) -> Expression:
    """Whether a document is there, and its time is not up."""
    return {"$gt": ["$expires_at", time]}


def until(time: Expression, ttl: float) -> Mapping[str, Expression]:
    """The fields of a document that lives for `ttl` seconds, and that the server removes then by its own time."""
    milliseconds = math.ceil(min(ttl * 1_000, LONGEST))
    return {"expires_at": {"$add": [time, ttl]}, "purge_at": {"$add": ["$$NOW", milliseconds]}}


async def changed(
    collection: AsyncCollection[Document],
    wanted: Document,
    steps: Sequence[Document],
    *fields: str,
    upsert: bool = False,
) -> Document | None:
    """Make the steps, which change nothing when they are made again; the fields as they are then, of what was wanted.

    `None` where there is nothing, which cannot be with `upsert`: of many that make the same document at once, a server may
    tell some that another has, or nothing, and they ask again.
    """
    while True:
        with suppress(DuplicateKeyError):
            found: Document | None = await collection.find_one_and_update(
                wanted, steps, upsert=upsert, projection=fields, return_document=ReturnDocument.AFTER
            )
            if found is not None or not upsert:
                return found


def decoded(document: Mapping[str, Any], kind: type[T], what: str) -> T:
    """Raises `CorruptRecord`."""
    try:
        return msgspec.convert(document, kind, builtin_types=(bytes,))  # text is none
    except msgspec.ValidationError as error:
        raise CorruptRecord(f"{what} is damaged, or was changed by something else") from error
