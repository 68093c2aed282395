"""SCOUTER: why this class, and why not that one."""

from __future__ import annotations

__all__: list[str] = []
