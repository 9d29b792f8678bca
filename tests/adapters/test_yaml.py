"""Pipeline files in YAML: the same layers as in TOML, places with columns, and nothing that is more than data."""

import importlib
import math
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import ConfigurationError, MiddlewarePipeline, Stage
from agent_runtime_adapters.yaml import MAX_DEPTH, MAX_VALUES, YamlDocument
from agent_runtime_middleware.auth import ApiKeys

GOOD = """\
# The outermost first.
layers:
  - use: logging
    bodies: true
  - use: auth
    authenticators: [{resource: keys}]
  - use: rate_limit
    quotas:
      - {requests: 10, per: 60}
      - {tokens: 1.0e+3, per: 3600, by: [tenant, "model"]}
  - {use: timeout, name: outer, run: 30}
"""
KEYS = ApiKeys({})


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        YamlDocument(text, "p.yaml")
    return str(raised.value)


def test_a_file_gives_its_layers_with_line_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipeline.yaml", "pipeline.YML"):
        Path(name).write_text(GOOD, "utf-8")
        pipeline = MiddlewarePipeline.from_config(name, resources={"keys": KEYS})
        assert [layer.declared for layer in pipeline.layers(Stage.RUN)] == [
            f"{name}:3:5",
            f"{name}:5:5",
            f"{name}:7:5",
            f"{name}:11:5",
        ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers:\n  - use: timeot", "p.yaml:2:5: layer 1 ('timeot'): no installed distribution"),
        ("layers:\n  - use: timeout\n    runs: 3", "p.yaml:3:5: layer 1 ('timeout'): option 'runs' is unknown (did you"),
        ("layers:\n- {use: timeout, run: fast}", "p.yaml:2:18: layer 1 ('timeout'): option 'run': expected `float | null`"),
        (
            "layers:\n- use: rate_limit\n  quotas:\n  - {requests: 1, per: 1}\n  - requests: 1\n    per: soon",
            "p.yaml:6:5: layer 1 ('rate_limit'): option 'quotas': expected `float`, got `str` at [1].per",
        ),
        ("layers:\n- use: validation\n  metadata: int", "p.yaml:3:3: layer 1 ('validation'): option 'metadata': takes an object"),
        ("- 1", "p.yaml: a pipeline is a table with `layers`, not list"),
        ("", "p.yaml: a pipeline is a table with `layers`, not NoneType"),
        ("# nothing", "p.yaml: a pipeline is a table with `layers`, not NoneType"),
        ("layers:", "p.yaml:1:1: `layers` must be a list of tables"),
        ("x: 1", "p.yaml:1:1: 'x' is unknown; a pipeline has only `layers`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigurationError) as raised:
        MiddlewarePipeline.from_config("p.yaml")
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "p.yaml:1:9: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "p.yaml:1:5: mapping values are not allowed here"),
        ("a: b\n\tc: d", "p.yaml:2:1: found character '\\t' that cannot start any token"),
        ("a: \x01", "p.yaml: unacceptable character #x0001"),
        ('a: "\\UFFFFFFFF"', "p.yaml: "),
        ("a: &x 1", "p.yaml:1:4: anchors and aliases are refused; write the value where it is needed"),
        ("a: *x", "p.yaml:1:4: anchors and aliases are refused"),
        ("a: &x [*x]", "p.yaml:1:4: anchors and aliases are refused"),
        ("*x : 1", "p.yaml:1:1: anchors and aliases are refused"),
        ("a: !!python/object/apply:os.system [ls]", "p.yaml:1:4: tags such as 'tag:yaml.org,2002:python/object/apply:os"),
        ("a: !!str 5", "p.yaml:1:4: tags such as 'tag:yaml.org,2002:str' are refused"),
        ("a: !!binary aGk=", "p.yaml:1:4: tags such as"),
        ("a: 1\nb: {<<: {c: 1}}", "p.yaml:2:5: a key must be text, and merge keys are refused"),
        ("1: a", "p.yaml:1:1: a key must be text"),
        ("[a]: b", "p.yaml:1:1: a key must be text"),
        ("? {a: b}\n: c", "p.yaml:1:3: a key must be text"),
        ("a: 1\nb: 2\na: 3", "p.yaml:3:1: the key 'a' is there twice"),
        ("a: 1\n---\na: 2", "p.yaml:2:1: a second document; a file holds one pipeline"),
        ("[" * 100_000, f"p.yaml:1:{MAX_DEPTH + 2}: more than {MAX_VALUES} values, or more than {MAX_DEPTH} of them in each"),
        ("[" + "1, " * MAX_VALUES + "]", f"p.yaml:1:{3 * MAX_VALUES - 1}: more than {MAX_VALUES} values"),
    ],
)  # fmt: skip
def test_what_is_no_plain_data_is_refused_with_its_place(text: str, words: str) -> None:
    assert refusal(text).startswith(words)


def test_a_file_that_would_grow_without_end_is_refused_at_once() -> None:
    laughs = "a0: &a0 ha\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20))
    started = time.perf_counter()
    assert refusal(laughs).startswith("p.yaml:1:5: anchors and aliases are refused")
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "a"), ("'1'", "1"), ('"true"', "true"), ("|\n 1\n", "1\n"), ("''", ""),
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None),
        ("0", 0), ("-17", -17), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("-2.5e-1", -0.25), ("5.", 5.0),
        (".inf", math.inf), ("-.inf", -math.inf),
        # What YAML 1.1 makes of these has surprised many: here they are text.
        ("no", "no"), ("on", "on"), ("YES", "YES"), ("1:30", "1:30"), ("010", "010"), ("0x1f", "0x1f"),
        ("1_000", "1_000"), ("2026-01-01", "2026-01-01"), ("=", "="), ("<<", "<<"), ("Null", "Null"),
        ("[1, [2, {b: c}]]", [1, [2, {"b": "c"}]]),
    ],
)  # fmt: skip
def test_scalars_are_what_the_core_schema_says(text: str, value: object) -> None:
    assert repr(YamlDocument(f"a: {text}", "p.yaml").data) == repr({"a": value})


def test_a_number_that_is_none_and_one_that_is_very_long() -> None:
    assert str(YamlDocument("[.nan]", "p.yaml").data) == "[nan]"
    assert refusal(f"a: {'9' * 5000}").startswith("p.yaml: Exceeds the limit")


def test_the_place_of_what_is_not_there_is_that_of_what_would_hold_it() -> None:
    document = YamlDocument("a:\n  - b: 1\n    c: 2\n", "p.yaml")
    assert document.where(("a", 0, "c")) == "p.yaml:3:5"
    assert document.where(("a", 0, "x", 3)) == "p.yaml:2:5"
    assert document.where(("x",)) == document.where(()) == "p.yaml"


def test_without_its_library_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "agent_runtime_adapters.yaml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"onion-agent-runtime\[yaml\]"):
        importlib.import_module("agent_runtime_adapters.yaml")
    (tmp_path / "p.yaml").touch()
    with pytest.raises(ConfigurationError, match=r"plugin 'yaml' of onion-agent-runtime .*\[yaml\]"):
        MiddlewarePipeline.from_config(tmp_path / "p.yaml")


WORDS = st.sampled_from(
    ["use", "timeout", ": ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "!!", "!", "|", ">", "'", '"', "\\", "#", "%", "---",
     "...", "\n", "\t", "  ", "? ", "<<", "~", ".inf", "1e9", "\0", "\u2028", "@", "`", "\\x", "\\U", "%YAML 9.9\n"]
)  # fmt: skip


@given(cuts=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 12), WORDS | st.text(max_size=4)), max_size=6))
def test_a_damaged_file_gives_data_or_a_configuration_error(cuts: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, word in cuts:
        start %= len(text) + 1
        text = text[:start] + word + text[start + length :]
    try:
        YamlDocument(text, "p.yaml")
    except ConfigurationError as error:
        assert str(error).startswith("p.yaml")
