"""Exact incremental occlusion: only the part of each activation that a covered window changes is computed again.

After S. Nakandala, A. Kumar and Y. Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based
Deep CNN Explanations", SIGMOD 2019. :mod:`~.geometry` says what a window changes and needs (pure functions on the
canonical graph), :mod:`~.plan` chooses where to cut, :mod:`~.run` runs unmodified pieces of the deployed graph.
"""

from onnxvis.runtime.incremental.build import Graphs, Refusal, build
from onnxvis.runtime.incremental.cost import node_costs
from onnxvis.runtime.incremental.plan import Weights
from onnxvis.runtime.incremental.run import Incremental

__all__ = ["Graphs", "Incremental", "Refusal", "Weights", "build", "node_costs"]
