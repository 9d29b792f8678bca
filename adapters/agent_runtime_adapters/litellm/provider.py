"""What litellm raises, as our errors."""

import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, cast

import msgspec

from agent_runtime import AgentRuntimeError, ProviderErrors, RequestRejected
from agent_runtime_adapters.litellm.library import Library

NOT_READABLE = 422  # litellm gives it to an answer that it cannot read, too


class _Reported(msgspec.Struct):
    """What a library's exception may carry of the answer, each part checked by itself."""

    status_code: Any = None
    code: Any = None
    type: Any = None
    body: Any = None
    headers: Any = None
    litellm_response_headers: Any = None


class Provider(ProviderErrors):
    """Who is asked for which model; says in our words what it did wrong."""

    def __init__(self, library: Library, name: str, model: str) -> None:
        key_setting = "api_key, or its variable in the environment"
        super().__init__(f"the provider {name}", model=model, key_setting=key_setting)
        self.library = library
        self.name = name
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
        told = self.reported(words)
        if told is not None:
            return told
        if 400 <= status < 500:
            return RequestRejected(
                f"litellm does not ask {self.name} for {self.model!r}: check api_key, model and parameters; "
                "the cause says what is wrong"
            )
        return self.unreachable()

    def cost(self, usage: object) -> Decimal | None:
        """What `usage` costs in dollars by the price list inside litellm; `None` where it has no price for the model."""
        try:
            costs = self.library.cost_per_token(model=self.model, custom_llm_provider=self.name, usage_object=usage)
        except self.library.not_priced:
            return None
        return sum((Decimal(str(cost)) for cost in costs), Decimal(0))


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
