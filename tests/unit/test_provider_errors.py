"""What a client says about its provider: which error a status is, and how long to wait."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agent_runtime import (
    AgentRuntimeError,
    CallTimeout,
    ProviderErrors,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)

WHO = "the provider at models.example"
ERRORS = ProviderErrors(WHO, model="m1", key_setting="api_key, or A_VARIABLE")


@pytest.mark.parametrize(
    ("status", "word", "kind", "retryable", "says"),
    [
        (307, None, RequestRejected, False, f"{WHO} redirects, which is not followed: correct base_url (HTTP 307)"),
        (400, "content_filter", RequestRejected, False, f"{WHO} refused the request (HTTP 400)"),
        (401, "invalid_api_key", RequestRejected, False, "check api_key, or A_VARIABLE (HTTP 401)"),
        (403, None, RequestRejected, False, f"{WHO} refused the API key"),
        (404, "model_not_found", RequestRejected, False, "the provider does not know the model 'm1', or base_url has"),
        (408, None, ProviderUnavailable, True, f"{WHO} is unavailable (HTTP 408)"),
        (409, None, ProviderUnavailable, True, "unavailable"),
        (429, "rate_limit_exceeded", RateLimited, True, f"{WHO} limits the rate (HTTP 429)"),
        (429, "insufficient_quota", RateLimited, False, f"{WHO} has no quota left for this key (HTTP 429)"),
        (499, None, RequestRejected, False, "refused the request"),
        (500, None, ProviderUnavailable, True, "unavailable"),
        (529, None, ProviderUnavailable, True, "unavailable"),
    ],
)
def test_a_status_is_our_error(
    status: int, word: str | None, kind: type[AgentRuntimeError], retryable: bool, says: str
) -> None:
    error = ERRORS.refusal(status, (None, 7, ["x"], "their own word", word, "model_not_found"))
    assert type(error) is kind
    assert error.retryable is retryable
    assert says in str(error)
    assert error.details == {"status": status, "code": word or "model_not_found"}
    assert error.retry_after is None


def test_a_word_that_is_not_known_is_not_passed_on() -> None:
    error = ERRORS.refusal(400, ("the prompt, quoted",))
    assert error.details == {"status": 400}
    assert "quoted" not in str(error)


def test_without_another_setting_the_key_is_api_key() -> None:
    assert "check api_key (HTTP 401)" in str(ProviderErrors(WHO, model="m1").refusal(401))


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "0.5"}, 0.5, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7, 7),
        ({"retry-after-ms": "nan", "retry-after": "7"}, 7, 7),
        ({"retry-after": http_date(3_600)}, 1_800, 3_600),  # from when the tests are collected
        ({"retry-after": http_date(-100)}, 0, 0),
        ({"retry-after": "-3"}, 0, 0),
        ({"retry-after": "inf"}, 86_400, 86_400),
        ({"retry-after": "1e9"}, 86_400, 86_400),
    ],
)
@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_is_seconds_from_now(status: int, headers: Mapping[str, str], low: float, high: float) -> None:
    error = ERRORS.refusal(status, headers=headers)
    assert error.retry_after is not None
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("form", ["%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S -0000"])
def test_a_date_that_names_no_zone_is_in_utc(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        date = (datetime.now(UTC) + timedelta(seconds=60)).strftime(form)
        wait = ERRORS.refusal(429, headers={"retry-after": date}).retry_after
    finally:
        monkeypatch.undo()
        time.tzset()
    assert wait is not None and 30 <= wait <= 60


@pytest.mark.parametrize("value", ["nan", "", "soon", "Mon, 99 Foo 2026 00:00:00 GMT", "9" * 400 + "x"])
def test_nonsense_in_retry_after_is_no_answer(value: str) -> None:
    assert ERRORS.refusal(429, headers={"retry-after": value}).retry_after is None
    assert ERRORS.refusal(429, headers={}).retry_after is None


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("server_error", 503), 503),
        (("429",), 429),
        ((None, "BadRequestError", 400), 400),
        (("model_not_found", "invalid_request_error"), 404),
        (("insufficient_quota",), 429),
    ],
)
def test_an_error_in_the_place_of_an_answer_has_the_status_of_its_first_known_word(
    words: tuple[object, ...], status: int
) -> None:
    error = ERRORS.reported(iter(words))
    assert error is not None
    assert error.details["status"] == status
    assert error.details.get("code") == (words[0] if words[0] in {"model_not_found", "insufficient_quota"} else None)


@pytest.mark.parametrize("words", [(), (None,), ("server_error",), (200,), ("their own word", 99)])
def test_an_error_whose_words_nobody_knows_is_the_client_s_to_name(words: tuple[object, ...]) -> None:
    assert ERRORS.reported(words) is None


def test_what_has_no_status() -> None:
    told = [ERRORS.unreachable(), ERRORS.silent(), ERRORS.malformed(), ERRORS.ended_early(), ERRORS.too_large(9)]
    assert [type(error) for error in told] == [ProviderUnavailable, CallTimeout, *[ProviderUnavailable] * 3]
    assert all(error.retryable and WHO in str(error) for error in told)
    assert str(told[-1]) == f"the answer of {WHO} is larger than 9 bytes"
