"""One pass over a data set that answers many questions."""

from __future__ import annotations

__all__: list[str] = []
