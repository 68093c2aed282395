"""Checks of option values, made when the options are made: before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxvis.errors import UsageError, did_you_mean

__all__ = ["a_flag", "a_number", "a_whole_number", "one_of"]


def a_whole_number(method: str, name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise :class:`UsageError` unless the value is a whole number of at least ``least``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{method} {name} is a whole number {span}, not {value!r}.")


def a_number(method: str, name: str, value: Any, above: float) -> None:
    """Raise :class:`UsageError` unless the value is a finite number greater than ``above``."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= above:
        raise UsageError(f"{method} {name} is a number greater than {above:g}, not {value!r}.")


def a_flag(method: str, name: str, value: Any) -> None:
    """Raise :class:`UsageError` unless the value is true or false."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{method} {name} is true or false, not {value!r}.")


def one_of(method: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise :class:`UsageError` unless the value is one of the words."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{method} {name} is one of {', '.join(choices)}, not {value!r}.{hint}")
