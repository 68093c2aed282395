"""What has it learned? Filters, activations, patches, embeddings, class visualization, dissection."""

from __future__ import annotations

__all__: list[str] = []
