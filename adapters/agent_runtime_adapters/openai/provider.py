"""What can go wrong with a provider, in our words."""

import math
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

import anyio
import httpx2
from openai import APIStatusError, APITimeoutError

from agent_runtime import (
    AgentRuntimeError,
    CallTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)

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
# What breaks below the protocol; httpx2 lets the last two through, and the library catches them too.
BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)


class Provider:
    """Who is asked for which model; says in our words what it did wrong."""

    def __init__(self, host: str, model: str) -> None:
        self.host = host
        self.model = model

    def translated(self, error: Exception) -> AgentRuntimeError:
        """Our error for one of the library or its transport."""
        if isinstance(error, APIStatusError):
            return self.refusal(error.status_code, (error.code, error.type), error.response.headers)
        if isinstance(error, (APITimeoutError, httpx2.TimeoutException)):
            return CallTimeout(f"the provider at {self.host} was silent for longer than the client's timeout")
        return ProviderUnavailable(f"the provider at {self.host} cannot be reached, or the connection broke")

    def refusal(
        self, status: int, words: tuple[object, ...] = (), headers: Mapping[str, str] | None = None
    ) -> AgentRuntimeError:
        """Our error for an HTTP status; `words` are the provider's own codes, of which only known ones are passed on."""
        code = next((word for word in words if isinstance(word, str) and word in CODES), None)
        details = {"status": status} if code is None else {"status": status, "code": code}
        wait = None if headers is None else _retry_after(headers)
        if status == 429:
            spent = code == "insufficient_quota"
            message = f"the provider at {self.host} {'has no quota left for this key' if spent else 'limits the rate'}"
            return RateLimited(f"{message} (HTTP 429)", details=details, retryable=not spent, retry_after=wait)
        if status in {408, 409} or status >= 500:
            message = f"the provider at {self.host} is unavailable (HTTP {status})"
            return ProviderUnavailable(message, details=details, retry_after=wait)
        return RequestRejected(f"{self._reason(status)} (HTTP {status})", details=details)

    def _reason(self, status: int) -> str:
        if status in {401, 403}:
            return f"the provider at {self.host} refused the API key: check api_key, or OPENAI_API_KEY"
        if status == 404:
            return (
                f"the provider does not know the model {self.model!r}, or {self.host} has another path in its base_url"
            )
        if status < 400:
            return f"the provider at {self.host} redirects, which is not followed: correct base_url"
        return f"the provider at {self.host} refused the request"

    def malformed(self) -> ProviderUnavailable:
        """For an answer that is not one."""
        return ProviderUnavailable(f"the provider at {self.host} sent an answer that makes no sense")


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
