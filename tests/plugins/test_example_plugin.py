"""The plugin of `examples/plugin`: built, installed where the runtime is, used from a file, tested, and uninstalled."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from agent_runtime import MiddlewarePipeline

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
SECONDS = 300

PIPELINE = """\
[[layers]]
use = "word_budget"
words = 3
"""

PROGRAM = """\
from agent_runtime import AgentConfig, AgentContext, AgentExecutor, MiddlewarePipeline
from agent_runtime.testing import ScriptedLLMClient

client = ScriptedLLMClient(["A bulb with many layers."])
pipeline = MiddlewarePipeline.from_config("pipeline.toml")
executor = AgentExecutor(config=AgentConfig(name="host"), llm_client=client, middleware=pipeline)
result = executor.run_sync(AgentContext(user_id="ann", current_task="What is an onion?"))
print(client.requests[0].messages[0].content, result.output, dict(result.metadata))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What the program prints; its words are in the failure when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    environment["COLUMNS"] = "200"  # so that no line of a listing is wrapped
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment_in(folder: Path) -> Path:
    """A virtual environment that has all that this one has; its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    here = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(site, "the_environment_of_the_tests.pth").write_text(here, "utf-8")
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the plugin's folder, so that nothing is built in this one."""
    copy = tmp_path / "plugin"
    shutil.copytree(PLUGIN, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "dist"))
    return copy


def test_a_strangers_plugin_is_built_installed_listed_used_tested_and_uninstalled(
    project: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", ".", cwd=project)
    [wheel] = (project / "dist").glob("*.whl")
    python = environment_in(tmp_path / "venv")
    install = (sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", python)
    run(*install, wheel, cwd=tmp_path)

    listed = run(python, "-m", "agent_runtime_adapters.cli", "plugins", cwd=tmp_path).splitlines()
    [line] = (line for line in listed if line.startswith("word_budget"))
    assert line.split(maxsplit=1)[1] == "other (run, model), word_budget.WordBudgetMiddleware, agent-word-budget 1.0.0"
    shown = run(python, "-m", "agent_runtime_adapters.cli", "plugins", "word_budget", cwd=tmp_path)
    assert "words           int, default 150\n                  How many an answer may have, at least 1." in shown

    (tmp_path / "pipeline.toml").write_text(PIPELINE, "utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")
    assert run(python, "program.py", cwd=tmp_path) == (
        "Answer in at most 3 words. A bulb with many layers. {'words_over_budget': 2}\n"
    )
    explained = run(python, "-m", "agent_runtime_adapters.cli", "explain", "pipeline.toml", cwd=tmp_path)
    assert "other, from word_budget, in pipeline.toml:1" in explained

    assert " passed" in run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)

    uninstall = (sys.executable, "-m", "uv", "pip", "uninstall", "--offline", "--python", python)
    run(*uninstall, "agent-word-budget", cwd=tmp_path)
    asked = "from agent_runtime import installed_plugins; print([p.name for p in installed_plugins()])"
    names = run(python, "-c", asked, cwd=tmp_path)
    assert "timeout" in names and "word_budget" not in names


def test_it_is_not_installed_where_the_tests_run() -> None:
    with pytest.raises(ValueError, match="no installed distribution offers a layer 'word_budget'"):
        MiddlewarePipeline.from_config({"layers": [{"use": "word_budget"}]})
