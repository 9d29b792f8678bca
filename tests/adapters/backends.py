"""The stores that what is built on sessions is tried on: by URL, as a service opens them."""

from pathlib import Path

import pytest

BACKENDS = ("memory", "sqlite")


def url_of(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the stores of this backend are. Servers are shared: each test has owners of its own."""
    if backend == "memory":
        return "memory:"
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'agent.db'}"
    return str(request.getfixturevalue(f"{backend}_url"))
