"""Every regular expression that is shipped takes time in proportion to its input, whatever the input (S7, H8).

They are found by reading the source, so that a new one is timed too, as it is used there: `fullmatch`, `search` and so on.
"""

import ast
import importlib
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
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
SCREENED = 1 << 10
ROUNDS = 5
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


def modules() -> Iterator[tuple[str, ast.Module]]:
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
    code = compile(ast.fix_missing_locations(ast.Expression(again)), module, "eval")
    pattern: re.Pattern[str] = eval(code, {**vars(importlib.import_module(module)), "re": re})
    return pattern


def regexes() -> Iterator[Regex]:
    for module, tree in modules():
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


FOUND = list(regexes())


def test_every_regular_expression_is_found_and_so_is_its_use() -> None:
    unused = [found.where for found in FOUND if not found.uses]
    assert not unused, f"no use was found of {unused}: use it by its name in the file that compiles it"
    hidden = [
        module
        for module, tree in modules()
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
    """The shortest time of several: a busy machine only adds."""
    times: list[float] = []
    for _ in range(rounds):
        started = time.process_time()
        call(text)
        times.append(time.process_time() - started)
    return min(times)


def worst_pair(call: Callable[[str], object], shape: Shape, alphabet: list[str]) -> tuple[str, str]:
    """The two characters with which `shape` takes longest, as far as a short text tells."""

    def takes(pair: tuple[str, str]) -> float:
        return seconds(call, shape(*pair, SCREENED), 2)

    return max(itertools.product(alphabet, alphabet), key=takes)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("regex", FOUND, ids=lambda regex: regex.where)
def test_s7_time_grows_with_the_input_and_stays_small(regex: Regex, shape: Shape) -> None:
    alphabet = sorted({*regex.pattern.pattern, *"a0 \n"})
    for use in regex.uses:
        call = calling(regex.pattern, use)
        pair = worst_pair(call, shape, alphabet)
        times: list[float] = []
        for size in (SCREENED * 4, regex.cap // 4, regex.cap // 2, regex.cap):
            times.append(seconds(call, shape(*pair, size), ROUNDS))
            assert times[-1] < WORST, f"{regex.where} {use}: {times[-1]:.3f} s at {size} characters like {pair}"
        for shorter, longer in itertools.pairwise(times[1:]):
            assert longer < MEASURABLE or longer <= RATIO * shorter, f"{regex.where} {use}: {times} of {pair}"


@pytest.mark.parametrize(
    ("pattern", "use", "character", "sizes"),
    [
        (r"(a+)+b", "match", "a", (11, 22)),
        (r"\s+$", "search", " ", (2048, 4096)),
        (r".*a.*b", "fullmatch", "a", (2048, 4096)),
    ],
)
def test_a_pattern_that_takes_too_long_is_found(pattern: str, use: str, character: str, sizes: tuple[int, int]) -> None:
    call = calling(re.compile(pattern), use)
    shorter, longer = (seconds(call, character * size + STRANGER, ROUNDS) for size in sizes)
    assert longer > RATIO * shorter and longer > MEASURABLE
