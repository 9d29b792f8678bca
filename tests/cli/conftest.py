"""A folder with a module that a user might write, as the current folder of the program."""

import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

APP = '''
import time
from pathlib import Path

import anyio

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, MemorySessionStore, SessionManager, TextDelta, tool
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeyRecord, ApiKeys, AuthMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware


@tool(kind="pure")
def stall() -> str:
    """Take long, in a thread that nobody can stop."""
    time.sleep(20)
    return "done"


def answering(*script, **options):
    return AgentExecutor(config=AgentConfig(name="clerk"), llm_client=ScriptedLLMClient(script, repeat=True), **options)


def executor():
    reply = ScriptedReply(chunks=("A dozen ", "apples, ", "and \\x1b[31mred\\x1b[0m ones."))
    layers = [LoggingMiddleware(lambda record: None), RetryMiddleware(), TimeoutMiddleware(run=30, tool=5)]
    return answering(reply, middleware=layers, tools=[stall])


async def whoami(context: AgentContext) -> str:
    return f"{context.user_id} of {context.tenant_id}, in {context.session_id}"


who = AgentExecutor(whoami, session_manager=SessionManager(MemorySessionStore()))
shop = {"executor": who}


async def endless(context: AgentContext) -> str:
    try:
        for number in range(100_000):
            await context.emit(TextDelta(text=f"word{number} "))
            await anyio.sleep(0.005)
    finally:
        Path("cleaned").touch()
    return ""


streaming = AgentExecutor(endless)
stalling = answering(ScriptedReply(tool_calls=(("stall", {}),)), tools=[stall])
failing = answering("never", middleware=[AuthMiddleware(ApiKeys({}))])
noisy = answering("Hello.", middleware=[AuthMiddleware(ApiKeys({})), LoggingMiddleware(lambda record: None)])
doubled = answering("Hello.", middleware=[RetryMiddleware()])


class Second(RetryMiddleware):
    name = "second"


doubled.pipeline.add(Second())


async def buggy_agent(context: AgentContext) -> str:
    raise KeyError("price")


buggy = AgentExecutor(buggy_agent)


def broken_factory():
    return 1 / 0
'''


@pytest.fixture(scope="session")
def app_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `app.py`, with executors of several kinds, and modules that do not import."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(APP, "utf-8")
    (folder / "broken.py").write_text("import math\nvalue = math.no_such_thing\n", "utf-8")
    (folder / "unfinished.py").write_text("value = (\n", "utf-8")
    (folder / "incomplete.py").write_text("import no_such_library\n", "utf-8")
    return folder


@pytest.fixture
def in_app_folder(app_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """That folder is the current one of this process; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(app_folder)
    monkeypatch.syspath_prepend(str(app_folder))
    yield
    for name in ("app", "broken", "incomplete"):
        sys.modules.pop(name, None)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder with `shop.py` in it, and nothing else; the current one."""
    folder = tmp_path / "shop"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("shop.py"), folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("shop", None)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A small folder of Markdown."""
    folder = tmp_path / "docs"
    (folder / "guide").mkdir(parents=True)
    (folder / "index.md").write_text("# Greenhouse\n\nHow to look after the greenhouse.\n", "utf-8")
    (folder / "guide" / "water.md").write_text(
        "# Water\n\n## Tomatoes\n\nWater tomatoes every morning,\nnever at noon.\n\n## Cacti\n\nCacti need water once a month.\n",
        "utf-8",
    )
    return folder
