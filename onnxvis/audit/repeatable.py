"""Options with which a method gives the same bits from run to run and from machine to machine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from onnxvis.methods import get_method

__all__ = ["repeatable_options"]

# Which engine is the faster is measured, so that choice, and the last bits with it, would differ from run to run.
_REPEATABLE: Final = {"engine": "plain"}


def repeatable_options(method: str) -> dict[str, Any]:
    """The options of this kind that a method has.

    Raises:
        UsageError: an unknown method.
    """
    own = {f.name for f in fields(get_method(method).options)}
    return {name: value for name, value in _REPEATABLE.items() if name in own}
