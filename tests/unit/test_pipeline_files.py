"""Pipelines as data: what a file may say, and where an error says that it is."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.distributions import FORMATS, install, put_on_path

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    MiddlewarePipeline,
    Secret,
    Stage,
    StandIns,
    installed_plugins,
    layer_options,
    load_plugin,
    when,
)
from agent_runtime.config_document import MAX_FILE_BYTES, TomlDocument
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

GOOD = """\
# Everything that a pipeline can say.

[[layers]]
use = "logging"
bodies = true

[[layers]]
use = "auth"
authenticators = [{ resource = "keys" }]

[[layers]]
use = "rate_limit"
quotas = [
  { requests = 10, per = 60 },
  { tokens = 1000.5, per = 3600, by = ["tenant", "model"] },
]

[[layers]]
use = "timeout"
name = "outer"
run = 30

[[layers]]
use = "timeout"
model = 5.5
"""
KEYS = ApiKeys({})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("pipeline.toml")


def load(file: Path, text: str | bytes, **resources: object) -> MiddlewarePipeline:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return MiddlewarePipeline.from_config(file, resources=resources)


def refusal(source: str | Path | Mapping[Any, Any], **resources: object) -> str:
    with pytest.raises(ConfigurationError) as raised:
        MiddlewarePipeline.from_config(source, resources=resources)
    return str(raised.value)


def refused(file: Path, text: str | bytes, **resources: object) -> str:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return refusal(file, **resources)


def test_a_file_gives_its_layers_in_order_with_where_each_was_declared(file: Path) -> None:
    pipeline = load(file, GOOD, keys=KEYS)
    names = ["LoggingMiddleware", "AuthMiddleware", "RateLimitMiddleware", "outer", "TimeoutMiddleware"]
    assert [getattr(layer, "name", "") for layer in pipeline] == names
    outer = pipeline.get("outer")
    assert isinstance(outer, TimeoutMiddleware) and (outer.run, outer.model) == (30.0, float("inf"))
    declared = {layer.name: layer.declared for stage in Stage for layer in pipeline.layers(stage)}
    assert declared == dict(zip(names, [f"pipeline.toml:{line}" for line in (3, 7, 11, 18, 23)], strict=True))


def test_explain_says_where_also_of_layers_in_a_pipeline_in_a_condition(file: Path) -> None:
    inner = load(file, '[[layers]]\nuse = "timeout"\nrun = 1\n')
    inner.name = "from file"
    pipeline = MiddlewarePipeline([when(bool, inner)])
    assert pipeline.explain([Stage.RUN]) == (
        "run stage\n"
        "  TimeoutMiddleware (timeout) from agent_runtime_middleware.timeout.TimeoutMiddleware, inside when(bool, from file), "
        "inside from file, declared in pipeline.toml:2\n"
        "    = the agent"
    ).replace(".toml:2", ".toml:1")


def test_a_mapping_of_the_same_form_does_as_well_and_has_no_place() -> None:
    options = MappingProxyType({"use": "timeout", "run": 2.5})
    pipeline = MiddlewarePipeline.from_config({"layers": (options,)}, name="mine")
    assert pipeline.name == "mine"
    assert [layer.declared for layer in pipeline.layers(Stage.RUN)] == [""]
    assert refusal({"layers": [{"use": "timeout", "runs": 2}]}).startswith(
        "layer 1 ('timeout'): option 'runs' is unknown"
    )
    assert refusal({1: []}) == "1 is unknown; a pipeline has only `layers`"
    assert refusal({"layers": [{"use": "timeout", 3: 2}]}).startswith("layer 1 ('timeout'): option 3 is unknown; there")
    assert refusal({"layers": []}, unused=1) == (
        "no layer uses the resources ['unused']; take them out, or name them in the file"
    )


def resource_options() -> Iterator[tuple[str, str, bool]]:
    """Those of our layers that take objects: of which layer, the name, and whether it takes several."""
    ours = (plugin.name for plugin in installed_plugins() if plugin.distribution == "onion-agent-runtime")
    for layer in ours:
        for option in layer_options(load_plugin(layer)):
            if option.resource:
                yield layer, option.name, option.type.startswith("tuple[")


@pytest.mark.parametrize(("layer", "option", "several"), list(resource_options()))
def test_something_stands_in_for_each_object_that_a_layer_of_ours_takes(layer: str, option: str, several: bool) -> None:
    needed: dict[str, Any] = {"quotas": [{"requests": 1, "per": 1}]} if layer == "rate_limit" else {}
    named = {"resource": "thing"}
    entry = {"use": layer, **needed, option: [named] if several else named}
    stand_ins = StandIns()
    pipeline = MiddlewarePipeline.from_config({"layers": [entry, {**entry, "name": "other"}]}, resources=stand_ins)
    assert len(pipeline) == 2
    assert list(stand_ins) == ["thing"]
    assert pipeline.explain()


async def test_what_stands_in_lets_nobody_in() -> None:
    entries = [{"use": "auth", "authenticators": [{"resource": "keys"}]}]
    pipeline = MiddlewarePipeline.from_config({"layers": entries}, resources=StandIns())
    with pytest.raises(TypeError):
        await AgentExecutor(never, middleware=pipeline).execute(AgentContext(current_task="x", credential=Secret("y")))
    thing: Any = StandIns()["thing"]
    assert not hasattr(thing, "__iter__")
    with pytest.raises(ValidationError):
        TypeAdapter(thing).validate_python({})


async def never(context: AgentContext) -> str:
    raise AssertionError("a run came by a stand-in")


def test_no_layers_is_a_pipeline_too(file: Path) -> None:
    assert len(load(file, "layers = []")) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "pipeline.toml:1: 'x' is unknown; a pipeline has only `layers`"),
        ("\n[[layer]]", "pipeline.toml:2: 'layer' is unknown (did you mean 'layers'?); a pipeline has only `layers`"),
        ("", "pipeline.toml: `layers` must be a list of tables"),
        ("\nlayers = 3", "pipeline.toml:2: `layers` must be a list of tables"),
        ("[layers]\nuse = 'x'", "pipeline.toml:1: `layers` must be a list of tables; begin each layer with [[layers]], in two brackets"),
        ("[ layers ] # one\nuse = 'x'\n[layers]", "pipeline.toml:3:8: cannot declare ('layers',) twice; begin each layer with [[layers]]"),
        ("[layers]\nuse = 'x'\n[[layers]]", "pipeline.toml:3:9: cannot overwrite a value; begin each layer with [[layers]], in two"),
        ("[[layers]]\nuse = 'x'\n[layers]", "pipeline.toml:3:8: cannot declare ('layers',) twice; begin each layer with [[layers]]"),
        ("layers = [\n3]", "pipeline.toml:1: layer 1: must be a table with `use`, not int"),
        ("[[layers]]", "pipeline.toml:1: layer 1: needs `use`, the name of an installed layer"),
        ("[[layers]]\nname = ''\nuse = 3", "pipeline.toml:3: layer 1: needs `use`, the name of an installed layer"),
        (
            "[[layers]]\nuse = 'timeot'",
            "pipeline.toml:2: layer 1 ('timeot'): no installed distribution offers a layer 'timeot' (did you mean 'timeout'?);",
        ),
        (
            "[[layers]]\nuse = 'os.system'",
            "pipeline.toml:2: layer 1 ('os.system'): no installed distribution offers a layer 'os.system'; there are: ",
        ),
        (
            "[[layers]]\nuse = 'retry'\n[[layers]]\nuse = 'timeout'\nrn = 3",
            "pipeline.toml:5: layer 2 ('timeout'): option 'rn' is unknown (did you mean 'run'?); there are: run, model, ",
        ),
        (
            "[[layers]]\nuse = 'timeout'\n\n# soon\nrun = 'soon'",
            "pipeline.toml:5: layer 1 ('timeout'): option 'run': expected `float`, got `str`",
        ),
        (
            "\n[[layers]]\nuse = 'timeout'\nrun = -1",
            "pipeline.toml:2: layer 1 ('timeout'): TimeoutMiddleware(run=-1.0): seconds, above 0 and finite",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'",
            "pipeline.toml:1: layer 1 ('rate_limit'): option 'quotas' is missing",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'\nquotas = [\n  { requests = 1, per = 1 },\n  { requests = 1, per = '1' },\n]",
            "pipeline.toml:3: layer 1 ('rate_limit'): option 'quotas': expected `float`, got `str` at [1].per",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'\n[[layers.quotas]]\nper = 1\nrequest = 3",
            "pipeline.toml:5: layer 1 ('rate_limit'): option 'quotas': object contains unknown field `request` at [0] "
            "(did you mean 'requests'?); there are: requests, tokens, per, by, burst, name, reserve",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'\nquotas = [{ requests = 3, per = 1, by = 'usr' }]",
            "pipeline.toml:3: layer 1 ('rate_limit'): option 'quotas': invalid enum value 'usr' at [0].by (did you mean 'user'?); "
            "there are: agent, model, tenant, user",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'\nquotas = [{ requests = 'x', per = 1 }]",
            "pipeline.toml:3: layer 1 ('rate_limit'): option 'quotas': expected `float`, got `str` at [0].requests",
        ),
        (
            "[[layers]]\nuse = 'rate_limit'\n[[layers.quotas]]\nrequests = 1\nper = 1\n[[layers.quotas]]\nrequests = 0\nper = 1",
            "pipeline.toml:6: layer 1 ('rate_limit'): option 'quotas': Quota(requests=0.0): a number above 0",
        ),
        (
            "[[layers]]\nuse = 'auth'\nauthenticators = ['keys']",
            "pipeline.toml:3: layer 1 ('auth'): option 'authenticators': takes an object of the program (Authenticator): ",
        ),
        (
            "[[layers]]\nuse = 'auth'\nauthenticators = [{ resource = 'keys' }]",
            "pipeline.toml:3: layer 1 ('auth'): option 'authenticators': names the resource 'keys', which is not in ",
        ),
        (
            "[[layers]]\nuse = 'retry'\n[[layers]]\nuse = 'retry'",
            "pipeline.toml:3: layer 2 ('retry'): a layer before it is named 'RetryMiddleware' too; give one of them ",
        ),
        (
            "[[layers]]\nuse = 'retry'\n[[layers]]\nuse = 'retry'\nname = 'RetryMiddleware'",
            "pipeline.toml:5: layer 2 ('retry'): a layer before it is named 'RetryMiddleware' too; give one of them ",
        ),
        ("[[layers]]\nuse = 'retry'\nname = ''", "pipeline.toml:3: layer 1 ('retry'): `name` must be text"),
        ("[[layers]]\nuse = 'retry'\nname = 3", "pipeline.toml:3: layer 1 ('retry'): `name` must be text"),
        ("[[layers]\n", "pipeline.toml:1:9: expected ']]' at the end of an array declaration"),
        ("layers = [\n\n", "pipeline.toml:3:1: invalid value"),
        ("layers = []\nlayers = []", "pipeline.toml:2:12: cannot overwrite a value"),
        ("x = " + "9" * 5000, "pipeline.toml: Exceeds the limit"),
        ("x = " + "[" * 5000, "pipeline.toml: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(file: Path, text: str, words: str) -> None:
    assert refused(file, text).startswith(words)


def test_a_text_that_could_be_evaluated_never_reaches_a_layer(file: Path) -> None:
    words = refused(file, "[[layers]]\nuse = 'validation'\nmetadata = '__import__(\"os\").abort()'")
    assert words.startswith(
        "pipeline.toml:3: layer 1 ('validation'): option 'metadata': takes an object of the program"
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_line_is_right_after_values_of_many_lines(file: Path, ending: str) -> None:
    lines = [
        "[[layers]]",
        'use = """\\',
        "  timeout\\",
        '"""',
        "run = 1",
        "[[layers]]",
        "use = 'retry'",
        "odd = [",
        "]",
    ]
    assert refused(file, ending.join(lines)).startswith("pipeline.toml:8: layer 2 ('retry'): option 'odd'")


def test_a_byte_order_mark_is_no_error(file: Path) -> None:
    assert len(load(file, b"\xef\xbb\xbf[[layers]]\nuse = 'retry'\n")) == 1


def test_a_value_of_very_many_lines_does_not_keep_the_error_waiting(file: Path) -> None:
    text = "[[layers]]\nuse = 'retry'\nodd = [\n" + "1,\n" * 20_000 + "]\n"
    assert refused(file, text).startswith("pipeline.toml:3: layer 1 ('retry'): option 'odd' is unknown")


def test_the_line_of_what_is_not_there_is_that_of_what_would_hold_it() -> None:
    document = TomlDocument("a = 1\n[[b]]\nc = [1,\n2]\n", "f")
    assert document.where(("b", 0, "c", 1)) == "f:3"
    assert document.where(("b", 0, "c", "x")) == "f:3"
    assert document.where(("b", 7)) == "f:2"
    assert document.where(("a", "x", 3)) == "f:1"
    assert document.where(("z",)) == document.where(()) == "f"


def test_what_is_no_readable_file_is_told(tmp_path: Path, file: Path) -> None:
    assert refusal("nowhere.toml") == "nowhere.toml: cannot be read: No such file or directory"
    (tmp_path / "folder.toml").mkdir()
    assert refusal("folder.toml") == "folder.toml: cannot be read: Is a directory"
    assert refusal("nul\0.toml") == "nul\0.toml: cannot be read: embedded null byte"
    assert refused(file, b"# \n#\n\xff") == "pipeline.toml:3: not UTF-8, from byte 5 on"
    assert (
        refused(file, b"#" * MAX_FILE_BYTES + b"#") == "pipeline.toml: larger than 1048576 bytes; this is no pipeline"
    )
    assert refused(file, b"#" * MAX_FILE_BYTES) == "pipeline.toml: `layers` must be a list of tables"
    with pytest.raises(TypeError, match="a pipeline is a file or a mapping, not int"):
        MiddlewarePipeline.from_config(3)  # type: ignore[arg-type]  # on purpose


def test_a_suffix_that_no_format_is_for_names_those_that_there_are(file: Path) -> None:
    for name, shown in (("pipeline.ini", "'.ini'"), ("pipeline", "''")):
        Path(name).touch()
        words = refusal(name)
        assert words == f"{name}: no format is installed for the suffix {shown}; there are: toml, yaml, yml"


def test_a_format_of_a_stranger_is_used_by_its_suffix(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "class Format:\n def __init__(self, text, name): self.data = eval(text); self.name = name\n"
        " def where(self, path): return f'{self.name}@{list(path)}'\n"
    )
    install(tmp_path / "site", "evil", {"py3": "odd_format:Format"}, group=FORMATS, odd_format=source)
    put_on_path(tmp_path / "site", monkeypatch)
    monkeypatch.delitem(sys.modules, "odd_format", raising=False)
    other = Path("pipeline.PY3")
    assert len(load(other, "{'layers': [{'use': 'retry'}]}")) == 1
    assert refused(other, "{'layers': [{'use': 'retry', 'x': 1}]}").startswith(
        "pipeline.PY3@['layers', 0, 'x']: layer 1"
    )
    assert refused(other, "[1]") == "pipeline.PY3@[]: a pipeline is a table with `layers`, not list"
    install(tmp_path / "site", "broken", {"zzz": "nowhere:Format"}, group=FORMATS)
    assert refused(Path("a.zzz"), "") == "plugin 'zzz' of broken 1.0 does not import: No module named 'nowhere'"


NAMED = """
from agent_runtime import AgentResult


class Named:
    def __init__(self, name: str = "n", /, *functions: int, fail: bool = False) -> None:
        self.name = name
        self.functions = functions
        if fail:
            raise TypeError("of the stranger")

    async def process(self, context, call_next):
        return await call_next(context)


class Unnamed(Named):
    def __init__(self) -> None:
        super().__init__("unnamed")


class Empty(Unnamed):
    def __init__(self, prices: dict[str, int]) -> None:
        prices["gold"]


class Sync:
    def process(self, context, call_next):
        return call_next(context)


class Unresolved(Unnamed):
    def __init__(self, x: "NoSuchType") -> None: ...
"""


def test_a_strangers_class_may_have_a_name_of_its_own_and_other_ways(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {name.lower(): f"named_module:{name}" for name in ("Named", "Unnamed", "Empty", "Sync", "Unresolved")}
    install(tmp_path / "site", "stranger", classes, named_module=NAMED)
    put_on_path(tmp_path / "site", monkeypatch)
    monkeypatch.delitem(sys.modules, "named_module", raising=False)
    pipeline = load(file, "[[layers]]\nuse = 'named'\nname = 'mine'\n[[layers]]\nuse = 'named'\nfunctions = [1, 2]\n")
    assert pipeline.get("mine") is not None
    assert getattr(pipeline.get("n"), "functions", None) == (1, 2)
    start = "pipeline.toml:1: layer 1"
    assert refused(file, "[[layers]]\nuse = 'named'\nfail = true") == f"{start} ('named'): of the stranger"
    assert refused(file, "[[layers]]\nuse = 'empty'\nprices = {}") == f"{start} ('empty'): KeyError: 'gold'"
    assert refused(file, "[[layers]]\nuse = 'sync'").startswith(f"{start} ('sync'): Sync.process is not an `async def`")
    assert refused(file, "[[layers]]\nuse = 'unresolved'").startswith(
        "pipeline.toml:2: layer 1 ('unresolved'): the options of Unresolved cannot be read from its constructor: "
    )
    assert refused(file, "[[layers]]\nuse = 'unnamed'\nname = 'x'") == (
        "pipeline.toml:3: layer 1 ('unnamed'): `name` is not for this layer: its class is no BaseMiddleware"
    )


def test_resources_are_given_as_they_are_and_each_must_be_used(file: Path) -> None:
    text = "[[layers]]\nuse = 'auth'\nauthenticators = [{ resource = 'keys' }]\n"
    auth = load(file, text, keys=KEYS).get("AuthMiddleware")
    assert isinstance(auth, AuthMiddleware)
    assert refused(file, text, keys=KEYS, other=1, more=2) == (
        "pipeline.toml: no layer uses the resources ['more', 'other']; take them out, or name them in the file"
    )


def test_a_subclass_of_the_pipeline_is_made_as_itself(file: Path) -> None:
    class Mine(MiddlewarePipeline):
        pass

    file.write_text(GOOD, "utf-8")
    assert type(Mine.from_config(file, resources={"keys": KEYS})) is Mine


def test_the_pipeline_can_be_changed_afterwards(file: Path) -> None:
    class Last(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    pipeline = load(file, "[[layers]]\nuse = 'timeout'\nrun = 1\n")
    pipeline.add(Last(), before="TimeoutMiddleware")
    assert [layer.declared for layer in pipeline.layers(Stage.RUN)] == ["", "pipeline.toml:1"]
    assert pipeline.remove("TimeoutMiddleware")


WORDS = st.sampled_from(
    ["layers", "use", "name", "timeout", "retry", "auth", "run", "attempts", "resource", "quotas", "1", "-1", "nan", "true",
     "'", '"', '"""', "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "#", "\n", "\r\n", " ", "\t", "\0", "\ud7ff", "1979-05-27"]
)  # fmt: skip


def mutated(text: str, cuts: list[tuple[int, int, str]]) -> str:
    for start, length, word in cuts:
        start %= len(text) + 1
        text = text[:start] + word + text[start + length :]
    return text


@given(cuts=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 12), WORDS | st.text(max_size=4)), max_size=6))
def test_a_damaged_file_gives_layers_or_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.toml"
    file.write_bytes(mutated(GOOD, cuts).encode("utf-8", "surrogatepass"))
    try:
        MiddlewarePipeline.from_config(file, resources={"keys": KEYS})
    except ConfigurationError as error:
        assert str(error).startswith(str(file))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({"resource": "keys"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = [
    "run",
    "name",
    "attempts",
    "delay",
    "authenticators",
    "quotas",
    "write",
    "bodies",
    "metadata",
    "clock",
    "store",
]


@given(
    entries=st.lists(
        st.fixed_dictionaries(
            {"use": st.sampled_from(["timeout", "retry", "auth", "rate_limit", "logging", "cache", "validation"]) | JSON},
            optional=dict.fromkeys(OPTIONS, JSON),
        )
        | JSON,
        max_size=3,
    )
)  # fmt: skip
def test_any_mapping_gives_layers_or_a_configuration_error(entries: list[Any]) -> None:
    try:
        MiddlewarePipeline.from_config({"layers": entries}, resources={"keys": KEYS})
    except ConfigurationError:
        return
