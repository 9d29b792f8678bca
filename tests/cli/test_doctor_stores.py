"""`agent-runtime doctor --stores URL`."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.cli.program import invoke, run_program, started
from tests.distributions import install

from agent_runtime_adapters.cli import doctor_stores
from agent_runtime_adapters.cli.doctor_place import Trial, place_of

PASSWORD = "hunter2-that-nobody-may-see"
LEAKY = """
from agent_runtime import StoreUnavailable, open_memory
from agent_runtime.memory_key_values import MemoryKeyValueStore


class Leaky(MemoryKeyValueStore):
    async def delete(self, owner, key, *, expected_version=None):
        raise StoreUnavailable("no connection to leaky://ann:" + "hunter2-that-nobody-may-see" + "@host")


def open_leaky(url, *, clock=None, **options):
    stores = open_memory("memory:", **({} if clock is None else {"clock": clock}), **options)
    stores.key_values = Leaky(**({} if clock is None else {"clock": clock}))
    return stores
"""


def promises(output: str) -> dict[str, dict[str, Any]]:
    return {f"{item['part']}: {item['promise']}": item for item in json.loads(output)["promises"]}


def test_sound_stores_keep_their_promises_and_each_is_shown(tmp_path: Path) -> None:
    done = run_program("doctor", "--stores", "memory:", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for part in ("sessions", "values", "rate limits", "event log"):
        assert part in lines
    assert any(line.startswith("kept ") and line.endswith(" s fifty increments at once give fifty") for line in lines)
    assert lines[-1].startswith("memory: ")
    assert " 0 broken, in " in lines[-1]
    assert "50 of " in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_promise_that_is_broken_is_told_with_the_reason_and_without_the_password(tmp_path: Path) -> None:
    install(tmp_path / "installed", "leaky", {"leaky": "leaky:open_leaky"}, group="agent_runtime.stores", leaky=LEAKY)
    url = f"leaky://ann:{PASSWORD}@host"
    done = run_program("doctor", "--stores", url, "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["stores"] == "memory"
    assert document["kept"] > 100
    found = promises(done.stdout)
    broken = [name for name, item in found.items() if item["why"]]
    assert document["broken"] == len(broken) > 3
    assert "processes: of many that add through two one does" in broken  # each has a memory of its own
    why = found["values: what is not there is told apart from what is empty"]["why"]
    assert why == "StoreUnavailable: no connection to leaky://ann:***@host"


def test_a_server_is_tried_behind_a_network_that_fails(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor_stores, "_PROMISES", f"{doctor_stores.__file__.replace('stores', 'promises')}::TestNetwork"
    )
    done = invoke("doctor", "--stores", f"{redis_url}#timeout=2", "--json")
    assert done.exit_code == 0, done.output
    found = promises(done.stdout)
    assert len(found) == 13
    assert "processes and network: an answer that comes too late is given to nobody" in found


def test_an_interrupted_trial_leaves_nothing(tmp_path: Path) -> None:
    with started("doctor", "--stores", "sqlite:///stores.db", cwd=tmp_path) as process:
        assert process.stderr is not None
        assert "which is removed at the end" in process.stderr.readline()
        assert "50 of " in process.stderr.readline()
        assert len(list(tmp_path.iterdir())) >= 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("stores.db", 2, "a store's URL begins with its scheme"),
        ("sqlit:///x.db", 2, "did you mean 'sqlite'?"),
        (f"redis://ann:{PASSWORD}@127.0.0.1:1", 1, "Redis at 127.0.0.1:1"),
        (f"redis://ann:{PASSWORD}@127.0.0.1/a/b/c", 2, "this is no URL of a Redis"),
        ("memory:#colour=red", 2, "'colour'"),
        ("sqlite:///missing/folder/x.db", 1, "missing/folder"),
    ],
)
def test_what_cannot_be_tried_says_why(url: str, code: int, words: str) -> None:
    done = invoke("doctor", "--stores", url)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert PASSWORD not in done.output
    assert not done.stdout


def test_without_the_extra_for_tests_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        return None if name == "hypothesis" else name

    monkeypatch.setattr(doctor_stores, "find_spec", find)
    done = invoke("doctor", "--stores", "memory:")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: the library hypothesis is missing\nhint:  pip install 'onion-agent-runtime[testing]'\n"
    )


@pytest.mark.parametrize(
    ("name", "words"), [("_PROMISES", "the trial was cut short: "), ("_REPORTS", "nothing could be tried: ")]
)
def test_a_trial_that_cannot_begin_is_told(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setattr(doctor_stores, name, "no_such_file")
    done = invoke("doctor", "--stores", "memory:")
    assert done.exit_code == 1
    assert f"error: {words}" in done.stderr
    assert "no_such_file" in done.stderr


def test_the_installation_as_json() -> None:
    sections = json.loads(invoke("doctor", "--json").stdout)
    assert list(sections) == ["runtime", "extras", "demo", "terminal"]
    assert sections["runtime"][0]["name"] == "Python"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", ("localhost", 6379)),
        (f"redis://ann:{PASSWORD}@10.0.0.1:7000/2", ("10.0.0.1", 7000)),
        ("postgresql://ann@db/shop?sslmode=disable", ("db", 5432)),
        ("mongodb://db:27018/?directConnection=true", ("db", 27018)),
        ("mongodb://db/", None),
        ("postgresql://one,two/shop", None),
        ("rediss://localhost", None),
        ("redis+cluster://localhost", None),
        ("sqlite:///file.db", None),
        ("memory:", None),
    ],
)
def test_a_proxy_is_put_in_front_of_what_has_one_address(url: str, address: tuple[str, int] | None) -> None:
    place = place_of(url, {})
    assert place.address == address
    assert place.namespace in repr(place)
    assert PASSWORD not in repr(place)


def test_at_another_address_all_the_rest_of_the_url_stays() -> None:
    place = Trial(url="redis://ann:a%2Fb@host:1/2", options={}, namespace="n")
    assert place.at("127.0.0.1", 9) == "redis://ann:a%2Fb@127.0.0.1:9/2"
    assert place.without_secrets("a%2Fb or a/b") == "*** or ***"
