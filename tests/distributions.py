"""Distributions that are installed for one test: a folder on the path with a `dist-info` in it, and modules."""

from pathlib import Path

import pytest

LAYERS = "agent_runtime.middleware"
FORMATS = "agent_runtime.config_formats"

LAYER = '''
from agent_runtime import AgentContext, AgentResult, BaseMiddleware, CallNext


class Shout(BaseMiddleware):
    """Answers aloud.

    Args:
        marks: How many marks.
    """

    def __init__(self, *, marks: int = 1) -> None:
        self.marks = marks

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        return result.replace(output=result.output + "!" * self.marks)
'''


def install(folder: Path, name: str, entries: dict[str, str], *, group: str = LAYERS, **modules: str) -> None:
    """Write distribution `name` 1.0 with its entry points and modules into `folder`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    lines = "".join(f"{entry} = {target}\n" for entry, target in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}", "utf-8")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, "utf-8")


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on what is installed in `folder` is found, for the length of the test."""
    monkeypatch.syspath_prepend(str(folder))
