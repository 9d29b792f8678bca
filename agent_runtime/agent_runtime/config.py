"""How the built-in agent is set up."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent_runtime.structured import OutputFormat


class AgentConfig(BaseModel):
    """A built-in agent's settings. Frozen; an unknown key or a value out of range is a `pydantic.ValidationError`.

    Attributes:
        name: The agent's name.
        description: What it is for.
        model: The provider's name of the model; `None` leaves the choice to the client.
        system_prompt: Sent first in every model call.
        temperature: 0 to 2. This and the other sampling fields are sent only when set; 0.0 is sent as 0.0.
        max_tokens: Above 0.
        top_p: Above 0, up to 1.
        frequency_penalty: −2 to 2.
        presence_penalty: −2 to 2.
        stop_sequences: Where the model stops.
        extra: Further provider parameters, sent as they are.
        timeout: Seconds for the whole run, instead of `Limits.run`.
        retry_attempts: Tries of one model call, the first included.
        retry_delay: Seconds; the bound of the first random wait between two tries, doubled each time.
        max_steps: Model calls of one run.
        output_type: What the answer is made into, as `AgentResult.data`: any type that pydantic can read from JSON.
        output_retries: How often the model is asked again when its answer does not fit `output_type`; each is a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=255)
    description: str = ""
    model: str | None = None
    system_prompt: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop_sequences: tuple[str, ...] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0)
    retry_attempts: int = Field(default=3, ge=1, le=20)
    retry_delay: float = Field(default=1.0, ge=0)
    max_steps: int = Field(default=10, ge=1)
    output_type: Any = Field(default=None, repr=False)
    output_retries: int = Field(default=1, ge=0, le=5)

    @field_validator("output_type")
    @classmethod
    def _has_a_json_form(cls, output_type: Any) -> Any:
        if output_type is not None:
            OutputFormat(output_type)
        return output_type

    @property
    def sets_retry(self) -> bool:
        """Whether the retry fields were given, not left at their defaults."""
        return not self.model_fields_set.isdisjoint({"retry_attempts", "retry_delay"})

    def parameters(self) -> dict[str, Any]:
        """What is sent with each model call: the fields that are set, and `extra`. `stop_sequences` goes as `stop`."""
        values = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "stop": None if self.stop_sequences is None else list(self.stop_sequences),
        }
        return {name: value for name, value in values.items() if value is not None} | self.extra
