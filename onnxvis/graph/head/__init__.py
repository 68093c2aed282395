"""Which tensor holds the logits, how they are made, and which layer to explain with."""

from onnxvis.graph.head.find import find_head
from onnxvis.graph.head.logits import find_logits
from onnxvis.graph.head.results import Head, Logits
from onnxvis.graph.head.weights import class_weights

__all__ = ["Head", "Logits", "class_weights", "find_head", "find_logits"]
