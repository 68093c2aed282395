"""One pass over a data set that answers many questions."""

from __future__ import annotations

from onnxvis.behaviour.index.store import ConceptCounts, PictureRow, Store, TopPlaces

__all__ = ["ConceptCounts", "PictureRow", "Store", "TopPlaces"]
