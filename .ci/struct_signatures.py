"""Gives the reference what a struct is made with: its fields as the parameters of its class."""

from typing import Any

from griffe import Attribute, Class, Extension, Function, Parameter, ParameterKind, Parameters


class StructSignatures(Extension):
    """A `msgspec.Struct` with `kw_only=True` has no `__init__` in its source; this puts one there."""

    def on_class_members(self, *, cls: Class, **kwargs: Any) -> None:
        if "kw_only" in cls.keywords and "__init__" not in cls.members:
            cls.set_member("__init__", _made_with(cls))


def _made_with(cls: Class) -> Function:
    fields = [field for field in cls.attributes.values() if "instance-attribute" in field.labels]
    return Function("__init__", parameters=Parameters(*map(_parameter, fields)))


def _parameter(field: Attribute) -> Parameter:
    return Parameter(
        field.name,
        annotation=field.annotation,
        kind=ParameterKind.keyword_only,
        default=field.value and str(field.value),
    )
