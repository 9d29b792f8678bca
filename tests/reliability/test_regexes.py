"""Every regular expression that is shipped takes time in proportion to its input, whatever the input (S7, H8).

They are found by reading the source, so that a new one is timed too, as it is used there: `fullmatch`, `search` and so on.
"""

import ast
import importlib
import itertools
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "agent_runtime/agent_runtime",
    "middleware/agent_runtime_middleware",
    "adapters/agent_runtime_adapters",
)
USES = ("match", "fullmatch", "search", "findall", "finditer", "split", "sub", "subn")

CAP = 1 << 18  # characters: Limits.message_bytes, and what a model's JSON may have
CAPS = {  # where the input is the program's own text: a docstring, a line or a page of its documentation
    "agent_runtime.layer_options": 1 << 14,
    "agent_runtime.tool_schema": 1 << 14,
    "agent_runtime_adapters.cli": 1 << 15,
}
SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
SCREENED = 1 << 10
SCREENINGS = 10 if SOAK else 2
ROUNDS = (
    (20, 80, 320) if SOAK else (3, 12, 48)
)  # what is too slow is measured again, for longer: a busy machine only adds
RATIO = 2.5
WORST = 0.020  # seconds
MEASURABLE = 0.003  # seconds: below, a ratio is noise
STRANGER = "\x00"


class Regex(NamedTuple):
    where: str
    pattern: "re.Pattern[str]"
    uses: tuple[str, ...]

    @property
    def cap(self) -> int:
        return next((cap for place, cap in CAPS.items() if self.where.startswith(place)), CAP)


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to((ROOT / package).parent).with_suffix("").parts)
            if not name.endswith("__main__"):
                yield name.removesuffix(".__init__"), ast.parse(path.read_text("utf-8"))


def is_re_call(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr)):
            return attr == "compile" or attr in USES
        case _:
            return False


def uses_of(call: ast.Call, tree: ast.Module, names: dict[int, str]) -> tuple[str, ...]:
    """By which methods the pattern of `call` is used in its module."""
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr != "compile":
        return (call.func.attr,)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in USES:
            value = node.value
            if value is call or (isinstance(value, ast.Name) and value.id == names.get(id(call))):
                found.add(node.attr)
    return tuple(sorted(found))


def pattern_of(call: ast.Call, module: str) -> "re.Pattern[str]":
    assert isinstance(call.func, ast.Attribute)
    flags = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
    arguments = call.args[:2] if call.func.attr == "compile" else call.args[:1]
    again = ast.Call(func=ast.parse("re.compile", mode="eval").body, args=[*arguments, *flags], keywords=[])
    code = compile(ast.fix_missing_locations(ast.Expression(again)), f"<{module}>", "eval")
    pattern: re.Pattern[str] = eval(code, {**vars(importlib.import_module(module)), "re": re})
    return pattern


def regexes() -> Iterator[Regex]:
    for module, tree in MODULES:
        names = {
            id(node.value): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if is_re_call(node):
                assert isinstance(node, ast.Call)
                pattern = pattern_of(node, module)
                yield Regex(f"{module}:{node.lineno}", pattern, uses_of(node, tree, names))


MODULES = list(parsed())
FOUND = list(regexes())


def test_every_regular_expression_is_found_and_so_is_its_use() -> None:
    unused = [found.where for found in FOUND if not found.uses]
    assert not unused, f"no use was found of {unused}: use it by its name in the file that compiles it"
    hidden = [
        module
        for module, tree in MODULES
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex")
    ]
    assert not hidden, f"import re, so that its patterns are found: {hidden}"
    assert len(FOUND) > 10


Shape = Callable[[str, str, int], str]
SHAPES: dict[str, Shape] = {
    "one character": lambda one, other, size: one * size,
    "one character and a stranger": lambda one, other, size: one * size + STRANGER,
    "two in turn": lambda one, other, size: (one + other) * (size // 2) + STRANGER,
    "a beginning that goes on": lambda one, other, size: one + other * size + STRANGER,
    "a beginning in every line": lambda one, other, size: ("\n" + one + other * 6) * (size // 8) + STRANGER,
}


def calling(pattern: "re.Pattern[str]", use: str) -> Callable[[str], object]:
    """The use of `pattern`, to its end."""
    if use in ("sub", "subn"):
        return lambda text: getattr(pattern, use)("", text)
    if use == "finditer":
        return lambda text: deque(pattern.finditer(text), maxlen=0)
    method: Callable[[str], object] = getattr(pattern, use)
    return method


def seconds(call: Callable[[str], object], text: str, rounds: int) -> float:
    """The shortest time of several."""
    times: list[float] = []
    for _ in range(rounds):
        started = time.process_time()
        call(text)
        times.append(time.process_time() - started)
    return min(times)


def worst_pair(call: Callable[[str], object], shape: Shape, alphabet: list[str]) -> tuple[str, str]:
    """The two characters with which `shape` takes longest, as far as a short text tells."""

    def takes(pair: tuple[str, str]) -> float:
        return seconds(call, shape(*pair, SCREENED), SCREENINGS)

    return max(itertools.product(alphabet, alphabet), key=takes)


def too_slow(call: Callable[[str], object], texts: Callable[[int], str], cap: int, rounds: int) -> str:
    """What is wrong with its times up to `cap` characters; empty when nothing is."""
    times: list[float] = []
    for size in (SCREENED * 4, cap // 4, cap // 2, cap):
        times.append(seconds(call, texts(size), rounds))
        if times[-1] >= WORST:
            return f"{times[-1]:.3f} s at {size} characters"
    grows = any(longer > max(MEASURABLE, RATIO * shorter) for shorter, longer in itertools.pairwise(times[1:]))
    return f"more than in proportion: {times} s" if grows else ""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("regex", FOUND, ids=lambda regex: regex.where)
def test_s7_time_grows_with_the_input_and_stays_small(regex: Regex, shape: Shape) -> None:
    alphabet = sorted({*regex.pattern.pattern, *"a0 \n"})
    for use in regex.uses:
        call = calling(regex.pattern, use)
        pair = worst_pair(call, shape, alphabet)
        tries = (too_slow(call, partial(shape, *pair), regex.cap, rounds) for rounds in ROUNDS)
        problems = list(itertools.takewhile(bool, tries))
        assert len(problems) < len(ROUNDS), f"{regex.where} {use}, of characters like {pair}: {problems}"


@pytest.mark.parametrize(
    ("pattern", "use", "character", "sizes"),
    [
        (r"(a+)+b", "match", "a", (10, 20)),
        (r"\s+$", "search", " ", (2048, 4096)),
        (r".*a.*b", "fullmatch", "a", (2048, 4096)),
    ],
)
def test_a_pattern_that_takes_too_long_is_found(pattern: str, use: str, character: str, sizes: tuple[int, int]) -> None:
    call = calling(re.compile(pattern), use)
    shorter, longer = (seconds(call, character * size + STRANGER, ROUNDS[0]) for size in sizes)
    assert longer > RATIO * shorter and longer > MEASURABLE


def test_a_pattern_whose_time_grows_with_the_square_of_its_input_is_too_slow() -> None:
    call = calling(re.compile(r"\s+$"), "search")
    assert too_slow(call, lambda size: " " * size + STRANGER, CAP, ROUNDS[0])
