"""The tables, and how a file of an older version gets them.

`MIGRATIONS[n]` are the statements that take a file from schema `n` to `n + 1`. A released one never changes: what is new
is a tuple of statements more at the end. All stores of this folder keep their tables in the one file, each adds its
statements here.
"""

from collections.abc import Sequence
from typing import TypeAlias

Statements: TypeAlias = tuple[str, ...]

APPLICATION_ID = 0x6F61_7274
"""Marks a file as ours: "oart"."""

SESSIONS: Statements = ()

MIGRATIONS: Sequence[Statements] = ((*SESSIONS,),)
