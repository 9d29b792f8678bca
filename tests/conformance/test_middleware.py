"""Each shipped layer keeps the promises of `MiddlewareContract`."""

from agent_runtime import Layer
from agent_runtime.testing import MiddlewareContract
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware


class TestAuthMiddleware(MiddlewareContract):
    def make(self) -> Layer:
        return AuthMiddleware(ApiKeys({}))


class TestLoggingMiddleware(MiddlewareContract):
    def make(self) -> Layer:
        return LoggingMiddleware()


class TestRetryMiddleware(MiddlewareContract):
    def make(self) -> Layer:
        return RetryMiddleware(delay=0)


class TestTimeoutMiddleware(MiddlewareContract):
    def make(self) -> Layer:
        return TimeoutMiddleware(run=5, model=5, tool=5, first_token=5, idle=5)
