"""What was stored is read by this version, or refused by name: never misread, never run."""

import ast
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import anyio
import msgspec
import pytest
from tests.corpus.generate import EXPECTED, FILE, FOLDER
from tests.corpus.samples import ITEMS, READERS, samples
from tests.corpus.stores import read
from tests.faults.damage import as_json, damage
from tests.faults.figures import SOAK, kept
from tests.faults.foreign import foreign
from tests.faults.places import STORES

from agent_runtime import ConfigurationError, CorruptRecord
from agent_runtime.journal_items import JournalItem
from agent_runtime.records import frame

ROOT = Path(__file__).parents[2]
EXPECTATIONS = msgspec.json.decode((FOLDER / EXPECTED).read_bytes())
RECORDS = sorted(name for name in EXPECTATIONS if name != FILE)


def reads(name: str) -> object:
    return as_json(READERS[name.partition(".")[2]]((FOLDER / name).read_bytes()))


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_the_corpus_is_read(name: str) -> None:
    assert reads(name) == EXPECTATIONS[name]


def test_the_file_of_the_corpus_is_read(tmp_path: Path) -> None:
    shutil.copy(FOLDER / FILE, tmp_path)
    assert as_json(anyio.run(read, tmp_path / FILE)) == EXPECTATIONS[FILE]


def test_the_corpus_has_everything_that_this_version_stores() -> None:
    assert {type(item) for item in ITEMS.values()} == set(get_args(JournalItem))
    assert samples().keys() == set(RECORDS)
    for name, (_, value) in samples().items():
        assert as_json(value) == EXPECTATIONS[name], f"{name}: write the corpus of this version: tests.corpus.generate"


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_a_newer_schema_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = (FOLDER / name).read_bytes()[11:]
    monkeypatch.setattr("agent_runtime.records.SCHEMA", 2)
    newer = frame(payload)
    monkeypatch.undo()
    with pytest.raises(CorruptRecord, match="its schema is 2, and this version reads 1"):
        READERS[name.partition(".")[2]](newer)


def test_a_file_of_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / FILE
    shutil.copy(FOLDER / FILE, file)
    with closing(sqlite3.connect(file)) as connection:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    with pytest.raises(ConfigurationError, match="written by a newer version"):
        anyio.run(read, file)


@pytest.mark.parametrize("place", [0, 1])
def test_a_changed_byte_is_found_or_changes_nothing(place: int) -> None:
    store, few = (("memory", 5_000), ("sqlite", 40))[place]
    figure = kept(anyio.run(damage, store, 10_000 if SOAK else few, 7))
    assert figure.met, str(figure)


@pytest.mark.parametrize("store", [name for name in STORES if SOAK or name != "mongodb"], indirect=True)
def test_a_hostile_record_is_refused_everywhere(store: str) -> None:
    figure = kept(anyio.run(foreign, store, 1, 7))
    assert figure.met, str(figure)
    assert figure.faults > 200


RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "code", "codeop", "ctypes"}
CALLS_CODE = {"eval", "exec", "compile", "__import__", "import_module", "unsafe_load", "full_load"}
# Where a module is named by who types the command, or by a constant, never by what is stored.
BY_NAME = {"cli/__init__.py", "cli/target.py", "cli/late.py", "litellm/library.py"}


def code_from_data(source: str) -> Iterator[str]:
    """What in a file could make code of data: an import of such a library, or a call of such a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in RUNS_CODE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in RUNS_CODE:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            of_a_module = isinstance(node.func, ast.Name) or name in ("import_module", "unsafe_load", "full_load")
            if name in CALLS_CODE and of_a_module:
                yield f"{name}()"


def test_nothing_in_the_product_makes_code_of_data() -> None:
    found = {
        file.relative_to(ROOT).as_posix(): names
        for folder in ("agent_runtime", "middleware", "adapters")
        for file in (ROOT / folder).rglob("*.py")
        if (names := list(code_from_data(file.read_text("utf-8"))))
        and not any(file.as_posix().endswith(allowed) for allowed in BY_NAME)
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "eval(x)", "importlib.import_module(x)", "yaml.unsafe_load(x)"],
)
def test_code_made_of_data_would_be_found(source: str) -> None:
    assert list(code_from_data(source))
