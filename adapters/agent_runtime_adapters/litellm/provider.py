"""What can go wrong with a provider, in our words."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, cast

import msgspec

from agent_runtime import (
    AgentRuntimeError,
    CallTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from agent_runtime_adapters.litellm.library import Library

MAX_RETRY_AFTER = 86_400.0  # seconds; a daily quota is the longest window that providers name
# The codes that are passed on, with the status that they go with; any other word of a provider stays in the cause.
CODES = {
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "unsupported_parameter": 400,
    "unsupported_value": 400,
}
STATUSES = CODES | {str(status): status for status in range(400, 600)}

NOT_READABLE = 422  # litellm gives it to an answer that it cannot read, too


class _Reported(msgspec.Struct):
    """What a library's exception may carry of the answer, each part checked by itself."""

    status_code: Any = None
    code: Any = None
    type: Any = None
    body: Any = None
    headers: Any = None
    litellm_response_headers: Any = None


class Provider:
    """Who is asked for which model; says in our words what it did wrong."""

    def __init__(self, library: Library, name: str, model: str) -> None:
        self.library = library
        self.name = name
        self.model = model
        self._outer = (
            sys.exception()
        )  # what the caller is handling is in the context of every error, and not of this call

    def translated(self, error: Exception) -> AgentRuntimeError:
        """Our error for one of litellm, which raises its own from the provider's library's from the transport's.

        Only an answer has headers: litellm gives a status to connections that broke and to what it refuses itself, too.
        """
        chain = list(_chain(error, self._outer))
        told = (
            one for one in chain if isinstance(one, self.library.errors)
        )  # a transport's own codes mean other things
        reported = [msgspec.convert(one, _Reported, from_attributes=True) for one in told]
        words = [word for report in reported for word in _words(report)]
        headers = next((found for report in reported if (found := _headers(report)) is not None), None)
        status = next((report.status_code for report in reported if isinstance(report.status_code, int)), 0)
        if status == NOT_READABLE and not any(self.library.is_refusal(one) for one in chain):
            return self.malformed()
        if headers and status >= 300:
            return self.refusal(status, words, headers)
        if any(isinstance(one, self.library.timeouts) for one in chain):
            return self.silent()
        return self._without_answer(status, words)

    def _without_answer(self, status: int, words: list[str]) -> AgentRuntimeError:
        """For an error in the place of a chunk, a request that litellm does not send, or a connection that broke."""
        told = next((STATUSES[word] for word in words if word in STATUSES), None)
        if told is not None:
            return self.refusal(told, words)
        if 400 <= status < 500:
            return RequestRejected(
                f"litellm does not ask {self.name} for {self.model!r}: check api_key, model and parameters; "
                "the cause says what is wrong"
            )
        return ProviderUnavailable(f"the provider {self.name} cannot be reached, or the connection broke")

    def refusal(self, status: int, words: list[str], headers: Mapping[str, str] | None = None) -> AgentRuntimeError:
        """Our error for an HTTP status; `words` are the provider's own codes, of which only known ones are passed on."""
        code = next((word for word in words if word in CODES), None)
        details = {"status": status} if code is None else {"status": status, "code": code}
        wait = None if headers is None else _retry_after(headers)
        if status == 429:
            spent = code == "insufficient_quota"
            message = f"the provider {self.name} {'has no quota left for this key' if spent else 'limits the rate'}"
            return RateLimited(f"{message} (HTTP 429)", details=details, retryable=not spent, retry_after=wait)
        if status in {408, 409} or status >= 500:
            message = f"the provider {self.name} is unavailable (HTTP {status})"
            return ProviderUnavailable(message, details=details, retry_after=wait)
        return RequestRejected(f"{self._reason(status)} (HTTP {status})", details=details)

    def _reason(self, status: int) -> str:
        if status in {401, 403}:
            return f"the provider {self.name} refused the API key: check api_key, or its variable in the environment"
        if status == 404:
            return f"the provider {self.name} does not know the model {self.model!r}, or base_url has another path"
        if status < 400:
            return f"the provider {self.name} redirects, which is not followed: correct base_url"
        return f"the provider {self.name} refused the request"

    def cost(self, usage: object) -> Decimal | None:
        """What `usage` costs in dollars by the price list inside litellm; `None` where it has no price for the model."""
        try:
            costs = self.library.cost_per_token(model=self.model, custom_llm_provider=self.name, usage_object=usage)
        except self.library.not_priced:
            return None
        return sum((Decimal(str(cost)) for cost in costs), Decimal(0))

    def silent(self) -> CallTimeout:
        """For an answer, or the next piece of one, that did not come in time."""
        return CallTimeout(f"the provider {self.name} was silent for longer than the client's timeout")

    def malformed(self) -> ProviderUnavailable:
        """For an answer that is not one."""
        return ProviderUnavailable(f"the provider {self.name} sent an answer that makes no sense")


def _chain(error: BaseException, end: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it was made from, each once, as far as `end`."""
    pending: list[object] = [error]
    seen = {id(end)}
    while pending:
        one = pending.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            pending += [getattr(one, "original_exception", None), one.__cause__, one.__context__]


def _words(report: _Reported) -> Iterator[str]:
    body: Any = report.body
    inside = msgspec.convert(body, _Reported) if isinstance(body, dict) else report
    for word in (inside.code, inside.type, report.code, report.type, report.status_code):
        if isinstance(word, str) or (isinstance(word, int) and word is not report.status_code):
            yield str(word)


def _headers(report: _Reported) -> Mapping[str, str] | None:
    for headers in (report.litellm_response_headers, report.headers):
        if isinstance(headers, Mapping):
            return cast("Mapping[str, str]", headers)
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, from 0 to `MAX_RETRY_AFTER`; `None` where the provider does not say, or says nonsense."""
    for name, read in (("retry-after-ms", _milliseconds), ("retry-after", float), ("retry-after", _until)):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            seconds = read(headers[name])
            if not math.isnan(seconds):
                return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return None


def _milliseconds(text: str) -> float:
    return float(text) / 1000.0


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
