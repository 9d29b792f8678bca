"""Servers that the adapters talk to."""

from collections.abc import Iterator

import pytest
from tests.servers.chat import ChatServer, serve_chat


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A chat-completions server that repeats what it is told; script it for anything else."""
    with serve_chat() as server:
        yield server
