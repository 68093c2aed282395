"""One file per operator family; importing this package registers every converter."""

from __future__ import annotations

import importlib
import pkgutil

__all__ = ["FAMILIES"]

FAMILIES: tuple[str, ...] = tuple(sorted(info.name for info in pkgutil.iter_modules(__path__)))
for _family in FAMILIES:
    importlib.import_module(f"{__name__}.{_family}")
