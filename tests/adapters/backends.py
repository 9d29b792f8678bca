"""The stores that what is built on sessions is tried on: by URL, as a service opens them."""

import pytest

BACKENDS = ("memory", "sqlite", "redis", "postgres", "mongodb")


def url_of(backend: str, folders: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """Where the stores of this backend are. They are shared by the tests of a module: each test has owners of its own."""
    if backend == "memory":
        return "memory:"
    if backend == "sqlite":
        return f"sqlite:///{folders.mktemp('stores') / 'agent.db'}"
    return str(request.getfixturevalue(f"{backend}_url"))
