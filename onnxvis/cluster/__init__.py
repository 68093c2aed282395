"""Work on many pictures on many machines, through engines that exist."""

from __future__ import annotations

from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.cluster.recipe import Recipe

__all__ = ["ClusterOptions", "Pace", "RayPool", "Recipe"]
