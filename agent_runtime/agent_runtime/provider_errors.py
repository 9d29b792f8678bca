"""What can go wrong with a model provider, in our words."""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime

from agent_runtime.errors import AgentRuntimeError, CallTimeout, ProviderUnavailable, RateLimited, RequestRejected

_MAX_RETRY_AFTER = 86_400.0  # seconds; a daily quota is the longest window that providers name
# The codes that are passed on, with the status that they go with; any other word of a provider stays in the cause.
_CODES = {
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
_STATUSES = _CODES | {str(status): status for status in range(400, 600)}


class ProviderErrors:
    """Makes the errors of a client that asks one provider for one model. The client raises them, its library's as the cause.

    Attributes:
        who: The provider in a sentence, such as `"the provider at api.example"`.
        model: What it is asked for.
        key_setting: Where its key is set, such as `"api_key, or OPENAI_API_KEY"`.
    """

    def __init__(self, who: str, *, model: str, key_setting: str = "api_key") -> None:
        self.who = who
        self.model = model
        self.key_setting = key_setting

    def refusal(
        self, status: int, words: Iterable[object] = (), headers: Mapping[str, str] | None = None
    ) -> AgentRuntimeError:
        """For an HTTP status that is no success.

        `words` are the provider's own codes, of which a known one is passed on as `details["code"]`. Of `headers`, which are
        looked up in lower case, `retry-after-ms` and `retry-after` give the error's `retry_after`, a day at most.
        """
        code = next((word for word in words if isinstance(word, str) and word in _CODES), None)
        details = {"status": status} if code is None else {"status": status, "code": code}
        wait = None if headers is None else _retry_after(headers)
        if status == 429:
            spent = code == "insufficient_quota"
            message = f"{self.who} {'has no quota left for this key' if spent else 'limits the rate'} (HTTP 429)"
            return RateLimited(message, details=details, retryable=not spent, retry_after=wait)
        if status in {408, 409} or status >= 500:
            message = f"{self.who} is unavailable (HTTP {status})"
            return ProviderUnavailable(message, details=details, retry_after=wait)
        return RequestRejected(f"{self._reason(status)} (HTTP {status})", details=details)

    def _reason(self, status: int) -> str:
        if status in {401, 403}:
            return f"{self.who} refused the API key: check {self.key_setting}"
        if status == 404:
            return f"the provider does not know the model {self.model!r}, or base_url has another path than {self.who}"
        if status < 400:
            return f"{self.who} redirects, which is not followed: correct base_url"
        return f"{self.who} refused the request"

    def reported(self, words: Iterable[object]) -> AgentRuntimeError | None:
        """For an error in the place of an answer, without a status: by the first of `words` that is a known code or a status.

        `None` when there is no such word. vLLM and OpenRouter give the HTTP status that the error would have had.
        """
        told = list(words)
        status = next((_STATUSES[str(word)] for word in told if str(word) in _STATUSES), None)
        return None if status is None else self.refusal(status, told)

    def unreachable(self) -> ProviderUnavailable:
        """For a connection that was not made, or broke."""
        return ProviderUnavailable(f"{self.who} cannot be reached, or the connection broke")

    def silent(self) -> CallTimeout:
        """For an answer, or the next piece of one, that did not come in time."""
        return CallTimeout(f"{self.who} was silent for longer than the client's timeout")

    def malformed(self) -> ProviderUnavailable:
        """For an answer that is not one."""
        return ProviderUnavailable(f"{self.who} sent an answer that makes no sense")

    def ended_early(self) -> ProviderUnavailable:
        """For a stream that stopped before the answer had ended."""
        return ProviderUnavailable(f"the stream of {self.who} ended early")

    def too_large(self, max_bytes: int) -> ProviderUnavailable:
        """For an answer larger than the client allows."""
        return ProviderUnavailable(f"the answer of {self.who} is larger than {max_bytes} bytes")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, from 0 to `_MAX_RETRY_AFTER`; `None` where the provider does not say, or says nonsense."""
    for name, read in (("retry-after-ms", _milliseconds), ("retry-after", float), ("retry-after", _until)):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            seconds = read(headers[name])
            if not math.isnan(seconds):
                return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
    return None


def _milliseconds(text: str) -> float:
    return float(text) / 1000.0


def _until(date: str) -> float:
    until = parsedate_to_datetime(date)
    return (
        until.replace(tzinfo=until.tzinfo or UTC).timestamp() - time.time()
    )  # one of HTTP's three forms names no zone
