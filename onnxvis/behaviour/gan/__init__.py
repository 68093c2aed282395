"""Dissecting generators: which unit makes what, and what if it were off."""

from __future__ import annotations

__all__: list[str] = []
