"""Can it be trusted? Metrics, self-tests, drift between files, and the report."""

from __future__ import annotations

__all__: list[str] = []
