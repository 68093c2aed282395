"""What every test shares: models are let go of at the end of the module that loaded them."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _models_are_let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clear the caches of a finished module: networks, sessions and float64 twins would be gigabytes by the end."""
    yield
    for place in (request.module, sys.modules.get("support.pairs")):
        for value in list(vars(place).values()) if place else ():
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
