"""Which model the demo asks: what the environment says, or none."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from agent_runtime import Secret
from agent_runtime_adapters.cli.exits import CommandFailed

MODEL = "AGENT_RUNTIME_MODEL"
BASE_URL = "AGENT_RUNTIME_BASE_URL"
API_KEY = "AGENT_RUNTIME_API_KEY"
OPENAI_API_KEY = "OPENAI_API_KEY"
VARIABLES = (MODEL, BASE_URL, API_KEY, OPENAI_API_KEY)


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A model, where it is served (`None`: at OpenAI), and the key for that place."""

    model: str
    base_url: str | None
    api_key: Secret | None

    @property
    def host(self) -> str:
        """The place, without what else its URL may hold."""
        return "OpenAI" if self.base_url is None else urlsplit(self.base_url).netloc.rpartition("@")[2]


def chosen(environment: Mapping[str, str]) -> ModelChoice | None:
    """What the environment chooses; an empty variable counts as not set. A key is sent only to the place it is for."""
    model, base_url, key, openai_key = (environment.get(name) or None for name in VARIABLES)
    if model is None:
        lone = next((name for name, value in ((BASE_URL, base_url), (API_KEY, key)) if value is not None), None)
        if lone is not None:
            raise CommandFailed(
                f"{lone} is set and {MODEL} is not", hint=f"set {MODEL} to the model's name, or unset {lone}"
            )
        return None
    if base_url is None and key is None and openai_key is None:
        raise CommandFailed(
            f"{MODEL} is set, and there is no key: neither {API_KEY} nor {OPENAI_API_KEY} is set",
            hint=f"set one of them; or {BASE_URL} for a server that needs no key; or unset {MODEL}",
        )
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise CommandFailed(f"{BASE_URL} must start with http:// or https://")
    return ModelChoice(model=model, base_url=base_url, api_key=None if key is None else Secret(key))
