"""Which acceptance scenarios this version answers: each has at least one test that carries its number."""

import re
from pathlib import Path

ANSWERED = {
    *range(1, 20),  # first use and executor; batch and streaming, but for a server
    *range(21, 34),  # middleware pipeline
    *range(34, 40),  # cache
    *range(40, 48),  # events
    *range(48, 58),  # sessions and checkpoints
    *(63, 64, 65),  # who gets in
    *(67, 68),  # how much is admitted
    *(69, 72),  # what may go in
    *(73, 75, 77, 79),  # resilience and tools
    *(84, 85),  # what OpenTelemetry is told
}


def test_the_scenarios_with_a_test_are_those_that_this_version_answers() -> None:
    here = Path(__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in here.glob("test_*_scenarios.py")]
    numbers = {int(number) for text in sources for number in re.findall(r"^(?:async )?def test_s(\d\d)_", text, re.M)}
    assert numbers == ANSWERED
