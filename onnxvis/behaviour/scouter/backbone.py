"""The backbone as a trainable torch module, and its weights back in the ONNX graph.

Weights are fed to the converted graph under the names of their initializers, so that writing them back is a change of
initializers and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from onnxvis.behaviour.scouter.head import XSlotHead
from onnxvis.errors import ConversionError
from onnxvis.runtime.torch_gradients import TorchGradients

__all__ = ["TrainableBackbone", "Whole", "trainable_weights"]

_WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SCALED = ("Mul", "Add")


def trainable_weights(trunk: onnx.ModelProto) -> tuple[str, ...]:
    """Initializers that training may change: weights of linear operators, scale and shift of normalizations.

    Constants of other operators are settings (bounds, axes, sizes), and so is a single number.
    """
    sizes = {t.name: int(np.prod(t.dims)) for t in trunk.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    found: dict[str, None] = {}
    for node in trunk.graph.node:
        if node.op_type in _WEIGHED or node.op_type in _SCALED:
            least = 1 if node.op_type in _WEIGHED else 2
            found |= dict.fromkeys(name for name in node.input if sizes.get(name, 0) >= least)
    return tuple(found)


class TrainableBackbone(nn.Module):
    """The trunk of a graph, from its input to the feature map ``(N, C, H, W)``.

    Batch normalization stays what the exported file makes of it, a scale and a shift; both are trained.

    Raises:
        ConversionError: an operator cannot be converted, or the trunk has no weights.
    """

    def __init__(self, trunk: onnx.ModelProto, image: str, tensor: str, permutation: Sequence[int]) -> None:
        super().__init__()
        self.trunk, self.image, self.tensor = trunk, image, tensor
        self.permutation = tuple(permutation)
        self.names = trainable_weights(trunk)
        if not self.names:
            raise ConversionError(f"nothing before {tensor!r} has weights, so there is no backbone to train.")
        self.graph = TorchGradients(trunk).graph
        arrays = {t.name: t for t in trunk.graph.initializer}
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(numpy_helper.to_array(arrays[name]).copy())) for name in self.names
        )

    def forward(self, x: Tensor) -> Tensor:
        """The feature map of prepared pictures."""
        feeds = dict(zip(self.names, self.weights, strict=True))
        found: Tensor = self.graph({**feeds, self.image: x}, (self.tensor,))[self.tensor]
        return found.permute(self.permutation)

    def exported(self) -> onnx.ModelProto:
        """The trunk with the weights as they are now."""
        changed = onnx.ModelProto()
        changed.CopyFrom(self.trunk)
        new = {name: weight.detach().cpu().numpy() for name, weight in zip(self.names, self.weights, strict=True)}
        for tensor in changed.graph.initializer:
            if tensor.name in new:
                tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
        return changed


class Whole(nn.Module):
    """Backbone and head, trained together."""

    def __init__(self, backbone: TrainableBackbone, head: XSlotHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, attention and area of prepared pictures."""
        logits, attention, area = self.head(self.backbone(x))
        return logits, attention, area

    def groups(self, rate: float, backbone_rate: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer: the backbone is moved more gently than the head."""
        return [
            {"params": list(self.head.parameters()), "lr": rate},
            {"params": list(self.backbone.weights), "lr": backbone_rate},
        ]
