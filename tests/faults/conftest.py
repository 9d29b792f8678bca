"""The stores of the programs of `tests/faults`, for tests that are made for several of them."""

from collections.abc import Generator

import pytest
from tests.faults.places import SERVERS, server


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Generator[str]:
    """The name of a store; its server, where it has one, is the one that all tests share."""
    name: str = request.param
    with server(name, request.getfixturevalue(f"{name}_url") if name in SERVERS else None):
        yield name
