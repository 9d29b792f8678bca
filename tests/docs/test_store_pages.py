"""The page of each backend lists the options, tables and collections that the code has."""

import inspect
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, get_type_hints

import pytest
from tests.docs.test_tables import rows

import agent_runtime_adapters.mongodb.database as mongodb
import agent_runtime_adapters.postgres.database as postgres
import agent_runtime_adapters.redis.server as redis
import agent_runtime_adapters.sqlite.database as sqlite
from agent_runtime_adapters.mongodb import MongoDatabase, open_mongodb
from agent_runtime_adapters.mongodb.indexes import INDEXES
from agent_runtime_adapters.postgres import PostgresDatabase, open_postgres
from agent_runtime_adapters.postgres.migrations import MIGRATIONS as SQL_FILES
from agent_runtime_adapters.redis import RedisServer, open_redis
from agent_runtime_adapters.sqlite import SQLiteDatabase, open_sqlite
from agent_runtime_adapters.sqlite.schema import MIGRATIONS

BACKENDS: dict[str, tuple[type[Any], type[Any], Callable[..., object]]] = {
    "sqlite": (sqlite.DatabaseOptions, SQLiteDatabase, open_sqlite),
    "redis": (redis.ServerOptions, RedisServer, open_redis),
    "postgres": (postgres.DatabaseOptions, PostgresDatabase, open_postgres),
    "mongodb": (mongodb.DatabaseOptions, MongoDatabase, open_mongodb),
}
IN_WORDS = {"namespace", "clock", "log_bounds", "shards", "statement_cache_size"}  # whose default is `None`
MADE = re.compile(r"CREATE TABLE (?:agent_runtime\.)?(\w+)")


def listed(page: str, header: str) -> set[str]:
    return {name for first, *_ in rows(f"stores/{page}.md", header) for name in first.split(", ")}


def shown(default: str | float) -> str:
    return f'"{default}"' if isinstance(default, str) else f"{default:g}"


@pytest.mark.parametrize("page", BACKENDS)
def test_the_options_of_the_page_are_those_of_the_backend_with_their_defaults(page: str) -> None:
    options, connection, opened = BACKENDS[page]
    own = [name for name in inspect.signature(opened).parameters if name not in ("url", "options")]
    told = {name: default for name, default, _ in rows(f"stores/{page}.md", "option")}
    assert list(told) == [*get_type_hints(options), *own]
    given = inspect.signature(connection).parameters
    assert {name: told[name].removesuffix(" s") for name in told.keys() - IN_WORDS} == {
        name: shown(given[name].default) for name in told.keys() - IN_WORDS
    }


def test_the_tables_of_sqlite() -> None:
    statements = [statement for migration in MIGRATIONS for statement in migration]
    assert listed("sqlite", "table") == {name for statement in statements for name in MADE.findall(statement)}


def test_the_tables_of_postgresql() -> None:
    folder = files("agent_runtime_adapters.postgres") / "sql"
    texts = [(folder / file).read_text("utf-8") for migration in SQL_FILES for file in migration]
    assert listed("postgres", "table") == {
        "agent_runtime_schema",
        *(name for text in texts for name in MADE.findall(text)),
    }


def test_the_collections_of_mongodb() -> None:
    assert listed("mongodb", "collection") == {*INDEXES, "counters"}
