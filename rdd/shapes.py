"""The shape that a JSON value must have, written as an example of types."""

from typing import Any

NUMBER = (int, float)

Shape = Any
"""A type, or some in a tuple; a mapping of the keys that must be there, with the shape of each; a list of one shape."""


def has_shape(value: Any, shape: Shape) -> bool:
    """Whether a value of JSON has a shape; a truth value is no number.

    Example:
        >>> has_shape({"epoch": 3, "more": None}, {"epoch": NUMBER})
        True
        >>> has_shape([{"epoch": "3"}], [{"epoch": NUMBER}])
        False
    """
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and has_shape(value[name], one) for name, one in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(has_shape(one, shape[0]) for one in value)
    if isinstance(value, bool):
        return shape in (bool, object)
    return isinstance(value, shape)


def described(shape: Shape) -> str:
    """A shape in words."""
    if isinstance(shape, dict):
        return "a mapping" + (f" with {', '.join(shape)}" if shape else "")
    if isinstance(shape, list):
        return f"a list, each of {described(shape[0])}"
    names = {str: "text", int: "a whole number", NUMBER: "a number", bool: "true or false", dict: "a mapping", list: "a list"}
    return names.get(shape, str(shape))
