"""Whether the place where a model is served answers at all."""

from collections.abc import Mapping

import httpx2

from agent_runtime import Secret
from agent_runtime_adapters.cli.model import OPENAI_API_KEY, ModelChoice

_DEFAULT = "https://api.openai.com/v1"
_TIMEOUT = 3.0  # seconds, for each of connecting and answering


class Endpoint:
    """Where a chosen model is served, and the key that goes there."""

    def __init__(self, choice: ModelChoice, environment: Mapping[str, str]) -> None:
        self._url = choice.base_url or environment.get("OPENAI_BASE_URL") or _DEFAULT
        own_key = Secret(environment.get(OPENAI_API_KEY, "")) if choice.base_url is None else None
        self._key = choice.api_key or own_key

    def problem(self) -> str | None:
        """What is wrong with the endpoint; `None` when it answers. Waits a few seconds at most, and asks no model."""
        headers = {"authorization": f"Bearer {self._key.reveal()}"} if self._key else {}
        try:
            response = httpx2.get(f"{self._url.rstrip('/')}/models", headers=headers, timeout=_TIMEOUT)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            return f"no answer ({type(error).__name__})"
        if response.status_code in (401, 403):
            return f"refuses the key (HTTP {response.status_code})"
        return f"is out of order (HTTP {response.status_code})" if response.status_code >= 500 else None
