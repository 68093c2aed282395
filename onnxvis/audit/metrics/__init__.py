"""Faithfulness and quality of explanations, as numbers."""

from __future__ import annotations

__all__: list[str] = []
