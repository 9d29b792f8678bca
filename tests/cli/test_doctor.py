"""`agent-runtime doctor`."""

import socket
from importlib import metadata
from pathlib import Path

import pytest
from tests.cli.program import invoke
from tests.cli.terminal import terminal
from tests.servers.chat import Answer, plain, refuse, serve_chat

from agent_runtime_adapters.cli import doctor

KEY = "key-that-nobody-may-see"


def state_of(name: str, output: str) -> str:
    """What the line of `name` says, in one space between words."""
    return next(" ".join(line.split()[1:]) for line in output.splitlines() if line.split()[:1] == [name])


def test_a_good_installation_has_nothing_broken() -> None:
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "broken" not in done.stdout
    for name in ("Python", "anyio", "msgspec", "pydantic", "cli", "openai", "documents"):
        assert state_of(name, done.stdout).startswith("ok ")
    assert state_of("AGENT_RUNTIME_MODEL", done.stdout) == "- not set"
    assert state_of("output", done.stdout) == "ok a file or a pipe: plain text"


def test_variables_are_set_or_not_and_their_values_are_not_shown() -> None:
    done = invoke("doctor", env={"OPENAI_API_KEY": KEY})
    assert state_of("OPENAI_API_KEY", done.stdout) == "ok set"
    assert KEY not in done.stdout


def test_a_library_of_any_extra_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = [
        name for name in metadata.metadata("onion-agent-runtime").get_all("Provides-Extra") or () if name != "all"
    ]
    assert "openai-agents" in extras
    needed = {line.split(">=")[0] for line in metadata.requires("onion-agent-runtime") or () if "extra ==" not in line}
    real = metadata.version

    def version(name: str) -> str:
        if name not in needed:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    done = invoke("doctor")
    assert (done.exit_code, "broken" in done.stdout) == (0, False)
    for extra in extras:
        assert state_of(extra, done.stdout) == f"- pip install 'onion-agent-runtime[{extra}]'"


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (plain(200, {"data": []}), 0, "ok 127.0.0.1:{port} answers"),
        (refuse(404), 0, "ok 127.0.0.1:{port} answers"),
        (refuse(401), 1, "broken 127.0.0.1:{port} refuses the key (HTTP 401)"),
        (refuse(503), 1, "broken 127.0.0.1:{port} is out of order (HTTP 503)"),
    ],
)
def test_an_endpoint_is_asked_whether_it_answers(answer: Answer, code: int, says: str) -> None:
    with serve_chat(answer) as server:
        done = invoke("doctor", env=variables(server.url))
        assert server.requests[0].path == "/v1/models"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert done.exit_code == code
    assert state_of("endpoint", done.stdout) == says.format(port=server.port)
    assert KEY not in done.output


def test_an_endpoint_that_does_not_answer_is_broken() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and never listens
        port = reserved.getsockname()[1]
        done = invoke("doctor", env=variables(f"http://127.0.0.1:{port}/v1"))
    assert done.exit_code == 1
    assert state_of("endpoint", done.stdout) == f"broken 127.0.0.1:{port} no answer (ConnectError)"


def test_half_a_configuration_is_broken() -> None:
    done = invoke("doctor", env={"AGENT_RUNTIME_BASE_URL": "http://127.0.0.1:9/v1"})
    assert done.exit_code == 1
    assert state_of("model", done.stdout).startswith("broken AGENT_RUNTIME_BASE_URL is set and AGENT_RUNTIME_MODEL is")


def test_a_library_that_is_missing_or_old_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "structlog":
            raise metadata.PackageNotFoundError(name)
        return "4.9.1" if name == "anyio" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    done = invoke("doctor")
    assert done.exit_code == 1
    assert state_of("anyio", done.stdout) == "broken 4.9.1, and 4.16 or later is needed"
    assert state_of("structlog", done.stdout) == "- pip install 'onion-agent-runtime[structlog]'"


def test_a_terminal_is_described_and_fits_into_60_columns(tmp_path: Path) -> None:
    with terminal("doctor", cwd=tmp_path, columns=60) as screen:
        assert screen.finish() == 0
    assert "a terminal of 60 columns" in " ".join(screen.text.split())


def variables(url: str) -> dict[str, str]:
    return {"AGENT_RUNTIME_MODEL": "m", "AGENT_RUNTIME_BASE_URL": url, "AGENT_RUNTIME_API_KEY": KEY}
