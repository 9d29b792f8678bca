"""`agent-runtime plugins`, and `explain` and `lint` of a pipeline file."""

import json
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from tests.cli.program import invoke
from tests.cli.terminal import terminal, without_colours
from tests.distributions import LAYER, install, put_on_path

PIPELINE = """\
[[layers]]
use = "timeout"
name = "outer"
run = 30

[[layers]]
use = "retry"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with two distributions in it: a layer that works, and one that does not import."""
    site = tmp_path / "site"
    install(site, "shouting", {"shout": "cli_shout_module:Shout"}, cli_shout_module=LAYER)
    install(site, "stranger", {"odd": "nowhere_at_all:Layer"})
    put_on_path(site, monkeypatch)
    monkeypatch.delitem(sys.modules, "cli_shout_module", raising=False)
    return site


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("pipeline.toml").write_text(PIPELINE, "utf-8")
    return "pipeline.toml"


def test_ours_and_a_strangers_are_listed_with_what_they_are_and_where_from() -> None:
    done = invoke("plugins")
    assert done.exit_code == 0
    assert (
        "timeout           timeout (run, model, tool), agent_runtime_middleware.timeout.TimeoutMiddleware, onion-agent-runtime "
    ) in done.stdout


@pytest.mark.usefixtures("site")
def test_one_that_does_not_import_is_listed_with_the_reason() -> None:
    done = invoke("plugins")
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["shout"] == "shout             other (run), cli_shout_module.Shout, shouting 1.0"
    assert lines["odd"] == (
        "odd               plugin 'odd' of stranger 1.0 does not import: No module named 'nowhere_at_all'"
    )


def test_two_of_one_name_are_both_listed_and_say_so(site: Path) -> None:
    install(site, "louder", {"shout": "cli_shout_module:Shout"})
    lines = [line for line in invoke("plugins").stdout.splitlines() if line.startswith("shout")]
    assert lines == [f"shout{' ' * 13}several distributions offer 'shout': louder 1.0 and shouting 1.0; uninstall all but one"] * 2  # fmt: skip


@pytest.mark.usefixtures("site")
def test_one_is_shown_with_its_options() -> None:
    done = invoke("plugins", "shout")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "shout             other (run), cli_shout_module.Shout, shouting 1.0",
        "",
        "  Answers aloud.",
        "",
        "  marks           int, default 1",
        "                  How many marks.",
    ]


def test_an_option_that_takes_an_object_says_how_a_file_names_it_and_one_that_is_needed_says_so() -> None:
    text = invoke("plugins", "rate_limit").stdout
    assert "  quotas          Sequence[Quota], required\n" in text
    assert "  store           RateLimitStore | None, default None; in a file: { resource = … }\n" in text


def test_one_without_options_and_without_words_says_so(site: Path) -> None:
    source = "class Bare:\n async def process(self, context, call_next): return await call_next(context)\n"
    install(site, "bare", {"bare": "cli_bare_module:Bare"}, cli_bare_module=source)
    assert invoke("plugins", "bare").stdout.splitlines()[1:] == ["", "  It has no options."]


@pytest.mark.usefixtures("site")
def test_programs_get_the_same() -> None:
    listed = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json").stdout)["plugins"]}
    assert listed["shout"] == {
        "name": "shout",
        "target": "cli_shout_module:Shout",
        "distribution": "shouting",
        "version": "1.0",
        "kind": "other",
        "stages": ["run"],
    }
    assert "No module named" in listed["odd"]["error"]
    described = json.loads(invoke("plugins", "shout", "--json").stdout)
    assert described["summary"] == "Answers aloud."
    assert described["options"] == [
        {
            "name": "marks",
            "type": "int",
            "default": "1",
            "required": False,
            "resource": False,
            "description": "How many marks.",
            "fields": [],
        }
    ]


def test_the_fields_of_data_that_an_option_takes_are_shown_below_it() -> None:
    lines = invoke("plugins", "rate_limit").stdout.splitlines()
    begin = lines.index("  quotas          Sequence[Quota], required")
    fields = [line for line in lines[begin:] if line.startswith("    ") and not line.startswith(" " * 5)]
    assert [line.split()[0] for line in fields] == ["requests", "tokens", "per", "by", "burst", "name", "reserve"]
    place = lines.index("    per           float, required")
    assert lines[place + 1] == f"{' ' * 18}Seconds. No window that starts anew: what was used comes back bit by bit."
    [quotas, *_] = json.loads(invoke("plugins", "rate_limit", "--json").stdout)["options"]
    told = {field["name"]: field for field in quotas["fields"]}
    assert (told["per"]["required"], told["reserve"]["default"]) == (True, "1000")
    assert told["by"]["description"] == "Whose uses count together; `()` is everybody's."


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(("name", "words"), [("timeot", "did you mean 'timeout'?"), ("odd", "does not import")])
def test_one_that_cannot_be_shown_is_wrong_use(name: str, words: str) -> None:
    done = invoke("plugins", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_on_a_narrow_terminal_lines_are_wrapped_in_their_column(tmp_path: Path) -> None:
    with terminal("plugins", "timeout", cwd=tmp_path, columns=60) as screen:
        assert screen.finish() == 0
    assert all(cell_len(without_colours(line)) <= 60 for line in screen.text.splitlines())


def test_explain_of_a_file_shows_its_layers_with_their_lines(file: str) -> None:
    done = invoke("explain", file)
    assert done.exit_code == 0
    assert done.stdout.startswith("pipeline pipeline.toml\n\naround the run\n")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if "──" in line]
    assert lines[0].endswith("timeout, from agent_runtime_middleware.timeout.TimeoutMiddleware, in pipeline.toml:1")
    document = json.loads(invoke("explain", file, "--json").stdout)
    assert document["pipeline"] == file
    assert document["stages"]["model"]["layers"][0]["declared"] == "pipeline.toml:6"


def test_lint_of_a_file_finds_an_unsafe_order(file: str) -> None:
    assert (invoke("lint", file).stdout, invoke("lint", file).exit_code) == ("Nothing found.\n", 0)
    Path(file).write_text(PIPELINE + '[[layers]]\nuse = "retry"\nname = "again"\n', "utf-8")
    done = invoke("lint", file)
    assert done.exit_code == 1
    assert "AR007 error  model stage: RetryMiddleware outside again" in done.stdout


@pytest.mark.parametrize("command", ["explain", "lint"])
def test_for_the_resources_of_a_file_something_stands_in_which_is_told(command: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "pipeline.toml"
    done = invoke(command, str(example))
    assert done.exit_code == 0
    assert done.stderr == f"{example} names resources, for which something stands in here: keys, log\n"
    assert json.loads(invoke(command, str(example), "--json").stdout)


@pytest.mark.parametrize("command", ["explain", "lint"])
def test_a_file_that_is_wrong_is_told_with_its_line(file: str, command: str) -> None:
    Path(file).write_text('[[layers]]\nuse = "retry"\nattempt = 3\n', "utf-8")
    done = invoke(command, file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pipeline.toml:3: layer 1 ('retry'): option 'attempt' is unknown" in done.stderr
    assert invoke(command, "nowhere.toml").exit_code == 2
