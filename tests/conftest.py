"""What every test shares: the two event loops and the size of the random search."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "soak", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("soak" if os.environ.get("AGENT_RUNTIME_SOAK") == "1" else "default")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each async test runs once on each event loop."""
    return str(request.param)


def pytest_collection_finish() -> None:
    """What the tests themselves are is not looked at again by each collection of garbage."""
    gc.collect()
    gc.freeze()
