"""The program as a whole: help, version, what it imports, and how it ends."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.cli.program import environment, invoke, run_program

HEAVY = {"bm25s", "httpx2", "litellm", "numpy", "openai"}
PRINT_LOADED = """
import sys
from agent_runtime_adapters.cli import main
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
WITHOUT = """
import sys
sys.modules[{library!r}] = None
from agent_runtime_adapters.cli import main
main()
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"], ["doctor"], ["explain", "x:y"]])
def test_only_the_demo_loads_what_only_the_demo_needs(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT_LOADED, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {module.partition(".")[0] for module in done.stderr.split()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def run_without(library: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program as if `library` were not installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(library=library), *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_extra_the_program_says_how_to_get_it(tmp_path: Path, library: str) -> None:
    done = run_without(library, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: agent-runtime needs {library}: pip install 'onion-agent-runtime[cli]'\n"


@pytest.mark.parametrize(
    ("library", "variables", "extra"),
    [
        ("bm25s", {}, "cli"),
        ("openai", {"AGENT_RUNTIME_MODEL": "m", "AGENT_RUNTIME_BASE_URL": "http://127.0.0.1:9/v1"}, "openai"),
    ],
)
def test_without_a_library_the_demo_says_how_to_get_it(
    docs: Path, library: str, variables: dict[str, str], extra: str
) -> None:
    done = run_without(library, "demo", "--docs", ".", "x", cwd=docs, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    hint = f"pip install 'onion-agent-runtime[{extra}]'"
    assert done.stderr == f"error: the library {library!r} is missing\nhint:  {hint}\n"


def test_without_the_sdk_of_opentelemetry_the_demo_shows_all_but_the_trace(docs: Path) -> None:
    done = run_without("opentelemetry.sdk", "demo", "--docs", ".", cwd=docs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "   trace       needs the SDK: pip install 'onion-agent-runtime[otel]'\n" in done.stdout
    assert "   succeeded   200\n" in done.stdout


def test_the_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    done = run_program("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"agent-runtime {version('onion-agent-runtime')}\n")


def test_every_command_has_a_whole_line_of_help_at_60_columns(tmp_path: Path) -> None:
    done = run_program("--help", cwd=tmp_path, COLUMNS="60")
    commands = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == [
        "run",
        "batch",
        "chat",
        "resume",
        "demo",
        "explain",
        "lint",
        "plugins",
        "doctor",
        "sessions",
    ]
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)
    assert all(len(line) <= 60 for line in done.stdout.splitlines())


def test_the_documentation_names_every_command(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    documented = re.findall(r"^\| `([a-z]+)", page, re.MULTILINE)
    help_text = run_program("--help", cwd=tmp_path).stdout
    assert documented == [name for name in documented if re.search(rf"^  {name} ", help_text, re.MULTILINE)]
    assert len(documented) == len(help_text.partition("Commands:\n")[2].splitlines())
    for name in ("list", "show", "export", "import", "delete", "discard"):
        assert f"agent-runtime sessions {name} " in page or f"agent-runtime sessions {name}\n" in page


@pytest.mark.parametrize("command", ["run", "batch", "chat", "resume", "sessions", "demo"])
def test_the_exit_codes_are_in_the_help(command: str) -> None:
    words = " ".join(invoke(command, "--help").stdout.split())
    assert re.search(r"Exit codes: 0 success; 1 .*; 2 .*; 3 .*; 130 .*; 141 .*\.", words)


def test_an_unknown_command_is_wrong_use() -> None:
    done = invoke("dmeo")
    assert done.exit_code == 2
    assert "demo" in done.stderr


def test_a_program_whose_output_was_closed_before_ends_as_usual(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m agent_runtime_adapters.cli doctor >&-'],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_the_output_cannot_carry_become_question_marks(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("# Trees\n\nThe leaves — green — fall.\n", "utf-8")
    done = run_program("demo", "--docs", ".", "leaves fall", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "x.md:3\nThe leaves ? green ? fall.\n")
