"""`agent-runtime demo` on a small folder of Markdown, on this project's docs, and with a served model."""

import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.program import ESCAPE, invoke, run_program
from tests.cli.terminal import shown, terminal
from tests.servers.chat import Answer, ChatServer, refuse, say, serve_chat

from agent_runtime import Secret
from agent_runtime_adapters.cli.assistant import document_tools
from agent_runtime_adapters.cli.demo import default_docs
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.killed import Killed
from agent_runtime_adapters.cli.library import read_library
from agent_runtime_adapters.cli.model import ModelChoice, chosen
from agent_runtime_adapters.cli.terminal import console

REFUSED = "authentication failed: present a credential that holds"


def test_a_question_is_answered_with_a_quotation_its_file_and_line(docs: Path) -> None:
    done = run_program("demo", "--docs", str(docs), "When shall I water the tomatoes?", cwd=docs)
    assert done.returncode == 0
    assert done.stdout == "guide/water.md:5\nWater tomatoes every morning, never at noon.\n"
    assert done.stderr == ""


def test_a_question_that_the_documents_do_not_answer_is_told_so(docs: Path) -> None:
    done = invoke("demo", "--docs", str(docs), "Who won the football match?")
    assert (done.exit_code, done.stdout) == (0, "I found nothing in these documents that answers this.\n")


def test_without_a_question_everything_is_shown(docs: Path) -> None:
    done = run_program("demo", "--docs", str(docs), cwd=docs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "none is configured: an extractive client searches and quotes" in done.stdout
    for number in (1, 2, 3):
        assert f"\n{number}  What is said about " in done.stdout
    assert done.stdout.count("   search ") == 3
    assert "guide/water.md:5\nWater tomatoes every morning" in done.stdout or "guide/water.md:10" in done.stdout
    for layer in ("Tracing", "Logging", "Auth", "RateLimit", "Cache", "Retry", "Timeout"):
        assert re.search(rf" {layer}Middleware +\d+ × +[\d.,]+ ms$", done.stdout, re.MULTILINE)
    assert re.search(r" the model client +9 × +[\d.,]+ ms$", done.stdout, re.MULTILINE)
    assert "error_type  authentication\n" in done.stdout
    assert f"error       {REFUSED}\n" in done.stdout
    assert "error_type  timeout\n" in done.stdout
    assert "took longer than 0.5 s\n" in done.stdout
    assert ESCAPE not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert_what_the_layers_do(done.stdout)
    assert_finished_after_the_kill(done.stdout)
    assert "   answer            yes (the demo's own: nobody has answered)\n" in done.stdout


def assert_what_the_layers_do(text: str) -> None:
    """The parts about the cache, the trace, the limit and the batch."""
    again = text.partition("The first question again\n")[2]
    assert re.match(
        r"\n   answer      the same, word for word\n   served_by   cache\n   after .* 0 model calls\n", again
    )
    spans = re.findall(r"── (\w+)(?: \w+)? +[\d.,]+ ms$", text.partition("\ntrace ")[2], re.MULTILINE)
    assert spans == ["invoke_agent", "chat", "execute_tool", "chat", "execute_tool", "chat"]
    assert "error_type  rate_limit\n" in text
    assert "   limit       4 in 3,600 s, 0 remaining\n" in text
    assert re.search(r"^   retry after (8\d\d|900)\.\d s$", text, re.MULTILINE)
    batch = text.partition("A batch of 200 questions\n")[2].partition("A process")[0]
    assert "   succeeded   200\n   failed      0\n   from cache  19" in batch
    assert "jsonl" not in batch  # a file that is gone is not named
    assert re.search(r"^   time        p50 [\d.]+ ms, p95 .*, p99 .*, max [\d.]+ ms$", batch, re.MULTILINE)


def assert_finished_after_the_kill(text: str) -> None:
    """The part about the killed process: what each tool did, and in which of the two processes."""
    told = re.findall(r"^ +process (\d+) +(.+)$", text, re.MULTILINE)
    first, second = dict.fromkeys(process for process, _ in told)
    assert told == [
        (first, "reserve       takes the tart from the shelf"),
        (first, "charge        has the bank book 30.00 EUR"),
        (first, "is killed, in the middle of charge (exit status -9)"),
        (second, "goes on with the run"),
        (second, "ask the bank  finds 1 payment with the key of this call"),
        (second, "send          hands the parcel over"),
    ]
    assert "in doubt, as it was started and has no end: charge\n" in text
    assert "   question          May the parcel be sent? (yes or no)\n" in text or "? May the parcel be sent?\n" in text
    assert "   result            The tart is on its way.\n" in text
    for tool, process in (("reserve", first), ("charge", first), ("ask the bank", second), ("send", second)):
        assert f"   {tool:<18}1 ×, in process {process}\n" in text


def test_at_a_terminal_the_question_of_the_demo_is_asked(docs: Path) -> None:
    with terminal("demo", "--docs", str(docs), cwd=docs, columns=120) as screen:
        screen.after("answer (yes, no): ", b"yes\n")
        assert screen.finish() == 0
    assert_finished_after_the_kill(shown(screen))
    with terminal("demo", "--docs", str(docs), cwd=docs, columns=120) as screen:
        screen.after("answer (yes, no): ", b"no\n")
        assert screen.finish() == 0
    assert "   result            The tart is paid and stays here, as you wish.\n" in shown(screen)
    assert "hands the parcel over" not in screen.text


def test_a_process_of_the_demo_that_fails_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_adapters.cli.killed.sys.executable", "/bin/false")
    with pytest.raises(CommandFailed, match="the demo's process did not come to 'charge'"):
        Killed(console(), tmp_path).show()


def test_this_projects_own_docs_answer_the_questions_of_the_demo() -> None:
    done = invoke("demo")
    assert done.exit_code == 0
    assert "found nothing" not in done.stdout
    assert done.stdout.count(".md:") > 6


def test_in_a_terminal_of_60_columns_no_line_is_longer(docs: Path) -> None:
    with terminal("demo", "--docs", str(docs), cwd=docs, columns=60) as screen:
        screen.after("answer (yes, no): ", b"\n")
        assert screen.finish() == 0
    lines = shown(screen).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "   guide/water.md:10" in lines or "   guide/water.md:5" in lines
    assert "the client writes slowly, so that you can read" in " ".join(lines)


def test_ctrl_c_ends_the_demo_in_one_line(docs: Path) -> None:
    (docs / "long.md").write_text("# Long\n\n" + "patience " * 2_000, "utf-8")
    with terminal("demo", "--docs", str(docs), "patience long", cwd=docs, columns=60) as screen:
        screen.read_until("patience patience")
        screen.press(b"\x03")
        assert screen.finish() == 130
    assert screen.text.endswith("\ninterrupted; the run was cancelled\n")
    assert "Traceback" not in screen.text


def test_wrong_folders_are_told_in_one_or_two_lines(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "x.md").write_text("\n# Only a heading\n", "utf-8")
    for folder, message in [
        (tmp_path / "missing", "the documents folder does not exist"),
        (docs / "index.md", "the documents folder is not a folder"),
        (tmp_path / "empty", "there is no Markdown with text in"),
        (tmp_path / "blank", "there is no Markdown with text in"),
    ]:
        assert_refused(folder, message)


def test_files_that_cannot_be_read_are_told_in_one_line(docs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("# Secret\n\nNot for everybody.\n", "utf-8")
    bad = docs / "bad.md"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: bad.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe"), "bad.md is not text in UTF-8 (byte 0)"),
        (lambda: bad.write_bytes(b"# Text\n\0\n"), "bad.md is not text: it holds zero bytes"),
        (lambda: bad.write_bytes(b"x" * (3 << 20)), "bad.md has 3.0 MiB, the limit is 2 MiB"),
        (lambda: bad.symlink_to(tmp_path / "gone"), "cannot read bad.md: No such file or directory"),
        (lambda: bad.symlink_to(bad), "cannot read bad.md: "),
        (lambda: bad.symlink_to(secret), "bad.md is a link that leads out of"),
        (lambda: os.mkfifo(bad), "bad.md is not a regular file"),
    ]
    for make, message in cases:
        make()
        assert_refused(docs, message)
        bad.unlink()


def test_hidden_folders_are_no_documents(docs: Path) -> None:
    (docs / ".venv").mkdir()
    (docs / ".venv" / "licence.md").write_bytes(b"\xff")
    assert set(read_library(docs).files) == {"index.md", "guide/water.md"}


@pytest.mark.parametrize("path", ["../secret.md", "/etc/passwd", "guide/../../secret.md", "guide", ""])
def test_the_tool_reads_nothing_outside_of_the_folder(docs: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.md").write_text("# Secret\n\nNot for everybody.\n", "utf-8")
    steps = [say(calls=[("c1", "read", f'{{"file": "{path}"}}')]), say("It is refused.")]
    with served(*steps) as server:
        done = invoke("demo", "--docs", str(docs), "Read it.", env=model_at(server))
    told = server.requests[1].text
    assert done.stdout == "It is refused.\n"
    assert "there is no document" in told
    assert "everybody" not in told


def test_a_served_model_searches_reads_and_answers(docs: Path) -> None:
    steps = [
        say(calls=[("c1", "search", '{"query": "tomatoes"}')]),
        say(calls=[("c2", "read", '{"file": "guide/water.md", "start_line": 5, "lines": 1}')]),
        say("In the ", "morning ", "(guide/water.md:5)."),
    ]
    with served(*steps) as server:
        done = run_program(
            "demo", "--docs", str(docs), "When?", cwd=docs, AGENT_RUNTIME_API_KEY="k1", **model_at(server)
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "In the morning (guide/water.md:5).\n", "")
    assert [tool["function"]["name"] for tool in server.requests[0].body["tools"]] == ["search", "read"]
    assert server.requests[0].body["model"] == "served-1"
    assert server.requests[0].headers["authorization"] == "Bearer k1"
    assert '"file":"guide/water.md"' in server.requests[1].text
    assert server.requests[2].text == "Water tomatoes every morning,"


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refused the API key"), (404, "does not know the model 'served-1'"), (400, "refused the request")],
)
def test_what_the_provider_refuses_is_told_in_our_words(docs: Path, status: int, message: str) -> None:
    with served(refuse(status)) as server:
        done = invoke("demo", "--docs", str(docs), env=model_at(server))
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "BACKEND" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AGENT_RUNTIME_MODEL": "m"}, "AGENT_RUNTIME_MODEL is set, and there is no key"),
        ({"AGENT_RUNTIME_BASE_URL": "http://x"}, "AGENT_RUNTIME_BASE_URL is set and AGENT_RUNTIME_MODEL is not"),
        ({"AGENT_RUNTIME_API_KEY": "k"}, "AGENT_RUNTIME_API_KEY is set and AGENT_RUNTIME_MODEL is not"),
        ({"AGENT_RUNTIME_MODEL": "m", "AGENT_RUNTIME_BASE_URL": "x:1"}, "must start with http:// or https://"),
    ],
)
def test_half_a_configuration_is_told(docs: Path, variables: dict[str, str], message: str) -> None:
    done = invoke("demo", "--docs", str(docs), "x", env=variables)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (1 if "https" in message else 2)


def test_a_key_of_openai_goes_to_no_other_place() -> None:
    elsewhere = chosen({"AGENT_RUNTIME_MODEL": "m", "AGENT_RUNTIME_BASE_URL": "http://x/v1", "OPENAI_API_KEY": "k"})
    assert elsewhere is not None
    assert elsewhere.api_key is None
    assert elsewhere.host == "x"


def test_a_key_of_openai_alone_chooses_no_model_and_with_a_model_is_enough() -> None:
    assert chosen({"OPENAI_API_KEY": "k"}) is None
    assert chosen({"OPENAI_API_KEY": "k", "AGENT_RUNTIME_MODEL": ""}) is None
    assert chosen({"OPENAI_API_KEY": "k", "AGENT_RUNTIME_MODEL": "m"}) is not None


def test_a_host_is_shown_without_a_password() -> None:
    password = "pw"
    choice = ModelChoice(model="m", base_url=f"http://ann:{password}@x:80/v1", api_key=Secret("k"))
    assert choice.host == "x:80"


def test_the_default_docs_are_those_of_the_clone() -> None:
    assert default_docs() == Path(__file__).parents[2] / "docs"
    assert [tool.kind for tool in document_tools(read_library(default_docs()), lambda *words: None)] == ["pure", "pure"]


@contextmanager
def served(*steps: Answer) -> Generator[ChatServer]:
    """A server that gives these answers, one after the other."""
    with serve_chat() as server:
        server.script.extend(steps)
        yield server


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(CommandFailed, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_library(folder)
    done = invoke("demo", "--docs", str(folder), "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def model_at(server: ChatServer) -> dict[str, str]:
    return {"AGENT_RUNTIME_MODEL": "served-1", "AGENT_RUNTIME_BASE_URL": server.url}
