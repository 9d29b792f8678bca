"""The servers that litellm talks to, and the one event loop that it runs on."""

import gc
import os
import warnings
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from tests.adapters_litellm.calls import KEY, MODEL, ask
from tests.servers.chat import ChatServer, serve_chat

from agent_runtime_adapters.litellm import LiteLLMClient


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """litellm needs asyncio; that it says so elsewhere is a test of its own."""
    return "asyncio"


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A chat-completions server that repeats what it is told; script it for anything else."""
    with serve_chat() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def loaded() -> Iterator[None]:
    """litellm imports the rest of itself at the first call, and that is not what the tests time.

    At the end what it has left in cycles is collected: of a call that was cancelled before it was sent, a coroutine.
    """

    async def call() -> None:
        async with LiteLLMClient(MODEL, base_url=server.url) as client:
            await ask(client)
            await ask(client, stream=False)

    with serve_chat() as server:
        anyio.run(call)
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine 'OpenAIChatCompletion.* was never awaited", RuntimeWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def client(chat_server: ChatServer) -> AsyncIterator[LiteLLMClient]:
    """A client of the server. Its end closes what other clients of the test have opened."""
    async with LiteLLMClient(MODEL, base_url=chat_server.url, api_key=KEY) as client:
        yield client


IGNORED = ("Accessing the .* attribute on the instance is deprecated", ".*`ReadOnly` qualifier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What litellm itself ignores from its import on: pytest begins each test with filters of its own."""
    for item in items:
        for message in IGNORED:
            item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}"))
