"""`open_stores`: a backend by its URL."""

from pathlib import Path

import pytest
from tests.distributions import install, put_on_path

from agent_runtime import ConfigurationError, LogBounds, Owner, SessionFields, SessionQuota, Stores, open_stores

STORES = "agent_runtime.stores"
ANN = Owner(tenant_id=None, user_id="ann")

OPENER = """
from agent_runtime import Stores, open_stores


def open_shelf(url: str, *, width: int = 1) -> Stores:
    assert 1 + width
    return open_stores("memory:")


def open_open(url: str) -> Stores:
    return open_shelf(url)
"""


async def make_session(stores: Stores) -> None:
    fields = SessionFields(agent_id="support", data=b"")
    await stores.sessions.create(ANN, "s", fields, SessionQuota(ttl=60), operation="o")


async def test_a_service_moves_to_a_file_by_changing_the_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/stores.db"
    async with open_stores(url) as stores:
        await make_session(stores)
        await stores.key_values.set(ANN, "k", b"v", ttl=60)
        assert repr(stores) == f"Stores({url})"
    async with open_stores(url, synchronous="NORMAL") as stores:
        assert await stores.sessions.count(ANN) == 1
        assert await stores.key_values.get(ANN, "k") is not None
        assert await stores.rate_limits.take(()) is not None
        assert await stores.event_log.read(ANN, "s") is None
    await stores.aclose()


@pytest.mark.parametrize("url", ["memory:", "memory://", "Memory:"])
async def test_stores_in_memory_are_new_each_time(url: str) -> None:
    async with open_stores(url, clock=lambda: 5.0) as stores:
        await make_session(stores)
    session = await stores.sessions.read(ANN, "s")
    assert session is not None
    assert session.created_at == 5.0
    assert await open_stores(url).sessions.count(ANN) == 0
    await stores.aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sessions.db", "begins with its scheme, as in sqlite:///file.db"),
        ("", "begins with its scheme"),
        ("://:hunter2@host", "begins with its scheme"),
        (
            "sqlit:///x.db",
            r"no installed distribution opens stores at 'sqlit' \(did you mean 'sqlite'\?\); there are: .*memory",
        ),
        ("sqlite:", "sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///", "sqlite:///relative.db or sqlite:////absolute.db"),
        ("memory:x", "write memory:"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_what_there_is(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_stores(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "option", "words"),
    [
        ("memory:", "colour", "stores at memory take no option 'colour'; there are: clock, log_bounds, namespace"),
        (
            "sqlite:///x.db",
            "synchronos",
            "stores at sqlite take no option 'synchronos' (did you mean 'synchronous'?); there are: busy_timeout, clock, "
            "log_bounds, namespace, synchronous",
        ),
        ("shelf://wall", "widht", "stores at shelf take no option 'widht' (did you mean 'width'?); there are: width"),
        ("shelf://wall", "width", "stores at shelf: unsupported operand type(s) for +: 'int' and 'str'"),
        ("open://wall", "width", "stores at open take no option 'width'; there are: none"),
    ],
)
def test_an_option_that_the_backend_does_not_take_is_named_with_those_that_there_are(
    url: str, option: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openers = {"shelf": "shelf:open_shelf", "open": "shelf:open_open"}
    install(tmp_path, "shelf", openers, group=STORES, shelf=OPENER)
    put_on_path(tmp_path, monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        open_stores(url, **{option: "red"})
    assert str(caught.value) == words


async def test_a_distribution_adds_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "shelf", {"shelf": "shelf:open_shelf"}, group=STORES, shelf=OPENER)
    put_on_path(tmp_path, monkeypatch)
    assert await open_stores("shelf://wall", width=3).sessions.count(ANN) == 0


def test_a_backend_whose_library_is_missing_is_told_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = 'raise ImportError("a shelf needs wood: pip install wood")'
    install(tmp_path, "bare", {"bare": "bare:open_shelf"}, group=STORES, bare=bare)
    put_on_path(tmp_path, monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        open_stores("bare://wall")
    assert str(caught.value) == "stores at bare: a shelf needs wood: pip install wood"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_namespace_is_a_place_of_its_own_that_is_erased(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/stores.db"
    async with open_stores(url) as mine:
        await make_session(mine)
        before = names_in(tmp_path)
        async with open_stores(url, namespace="try_out", log_bounds=LogBounds(max_events=1)) as tried:
            assert await tried.sessions.count(ANN) == 0
            await make_session(tried)
            await tried.event_log.append(ANN, "s", [b"a", b"b"], expected=0, ttl=60, operation="o")
            page = await tried.event_log.read(ANN, "s")
            assert page is not None
            assert page.first == 2
            await tried.erase()
        assert names_in(tmp_path) == before
        assert await mine.sessions.count(ANN) == 1
        with pytest.raises(ConfigurationError, match="was not opened with a namespace of its own, and is not erased"):
            await mine.erase()


async def test_a_namespace_in_memory_goes_with_it() -> None:
    async with open_stores("memory:", namespace="try_out", log_bounds=LogBounds(max_events=1)) as stores:
        await make_session(stores)
        await stores.erase()
