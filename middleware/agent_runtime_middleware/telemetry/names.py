"""The names of the OpenTelemetry semantic conventions that we use, and our own beside them.

The conventions for generative AI are still in development. These are those of `opentelemetry-semantic-conventions` 0.66b2
(schema 1.44.0), which a test compares; since then they are kept in a repository of their own, under the same names.
"""

from typing import Final

CONVENTIONS: Final = "0.66b2"
SCOPE: Final = "agent_runtime"
"""The name of our tracer and our meter."""

# Operations.
INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"

# Attributes of the conventions, here under the package's own names.
ENDUSER_ID: Final = "enduser.id"
ERROR_TYPE: Final = "error.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_TYPE: Final = "exception.type"
GEN_AI_AGENT_ID: Final = "gen_ai.agent.id"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

# Instruments of the conventions.
GEN_AI_CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"

# From the specification of the metrics SDK: the one set of labels for everything beyond the limit.
OVERFLOW: Final = "otel.metric.overflow"

# Our own attributes.
ATTEMPT: Final = "agent_runtime.attempt"
ATTEMPTS: Final = "agent_runtime.attempts"
CACHED: Final = "agent_runtime.cached"
DEGRADED: Final = "agent_runtime.degraded"
EVENT_TYPE: Final = "agent_runtime.event.type"
MIDDLEWARE: Final = "agent_runtime.middleware"
OUTCOME: Final = "agent_runtime.outcome"
PARENT_RUN_ID: Final = "agent_runtime.parent_run_id"
RESUMED_FROM: Final = "agent_runtime.resumed_from"
RUN_ID: Final = "agent_runtime.run_id"
SERVED_BY: Final = "agent_runtime.served_by"
STEP: Final = "agent_runtime.step"
TENANT_ID: Final = "agent_runtime.tenant_id"

# Our own instruments.
EVENTS: Final = "agent_runtime.events"
RUN_ACTIVE: Final = "agent_runtime.run.active"
RUN_COST: Final = "agent_runtime.run.cost"
RUN_DURATION: Final = "agent_runtime.run.duration"
TOOL_DURATION: Final = "agent_runtime.tool.duration"
