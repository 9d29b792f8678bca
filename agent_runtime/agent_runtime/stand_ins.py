"""A look at a pipeline file without the program that has its objects."""

from typing import Any


class StandIns(dict[str, object]):
    """As `resources` of `MiddlewarePipeline.from_config`: has something for each name, and afterwards the names.

    It is for looking at the layers, with `explain()` and `lint()`. What stands in fits every option, has every attribute and
    can be called, so that layers can be made of it. Awaited it is a `TypeError`, and as a type it is that of no value: a
    run comes by no check that waits for one.
    """

    def __missing__(self, name: str) -> object:
        return self.setdefault(name, _StandIn())


class _StandIn:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # it is no list, no context manager and nothing else of Python's
        return _StandIn()

    def __call__(self, *arguments: object, **options: object) -> Any:
        return _StandIn()

    def __get_pydantic_core_schema__(self, *_: object) -> dict[str, object]:
        return {"type": "is-instance", "cls": _StandIn}
