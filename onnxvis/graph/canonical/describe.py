"""The table of rewrites, as the documentation shows it."""

from __future__ import annotations

from onnxvis.graph.canonical import REWRITES

__all__ = ["table"]

_STAGES = {
    "any": "at every operator set",
    "modern": "from operator set 13 on",
    "form": "to pin operator set 17",
}


def table() -> str:
    """A Markdown table of all rewrites in their order: name, when it applies, what it does."""
    rows = [f"| `{r.name}` | {_STAGES[r.stage]} | {r.summary} |" for r in REWRITES]
    return "\n".join(["| rewrite | applies | what it does |", "|---|---|---|", *rows])
