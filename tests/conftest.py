"""What every test shares: the two event loops, the size of the random search, and the servers."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.servers.mongodb_server import MongoDBProgram
from tests.servers.postgres_server import PostgresProgram
from tests.servers.program import served
from tests.servers.redis_server import RedisProgram

settings.register_profile("default", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "soak", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("soak" if os.environ.get("AGENT_RUNTIME_SOAK") == "1" else "default")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each async test runs once on each event loop."""
    return str(request.param)


def pytest_collection_finish() -> None:
    """What the tests themselves are is not looked at again by each collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that every test of this process shares: each keeps to a prefix of its own."""
    with served(RedisProgram) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL that every test of this process shares: each keeps to a schema of its own."""
    with served(PostgresProgram) as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    """A server of MongoDB's protocol that every test of this process shares: each keeps to a database of its own."""
    with served(MongoDBProgram) as url:
        yield url
