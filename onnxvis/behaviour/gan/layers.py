"""The feature maps of a generator, and which of them is dissected unless another one is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxvis.errors import LayerError, ModelError
from onnxvis.graph.index import GraphIndex

__all__ = ["GeneratorLayer", "choose_layer", "feature_maps"]

_CHANNEL_SECOND = {
    "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "PRelu",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth", "FusedConv",
}  # fmt: skip
_ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Mish", "HardSwish", "Tanh", "Sigmoid",
    "ThresholdedRelu", "HardSigmoid", "Clip",
}  # fmt: skip
_PLUMBING = {"Cast", "Identity", "Reshape", "Transpose", "Pad", "Dropout", "Expand", "Slice", "Squeeze", "Unsqueeze"}
_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class GeneratorLayer:
    """A feature map of a generator.

    Attributes:
        tensor: its name.
        node: the node that makes it.
        op_type: that node's operator.
        units: number of units.
        size: (height, width).
        unit_axis: the axis that counts units: 1, or 3 where they come last.
        dtype: numpy's name of its element type.
        neck: whether everything on the way from the latent to the picture passes it.
        reason: why this layer, once it is chosen.
    """

    tensor: str
    node: str
    op_type: str
    units: int
    size: tuple[int, int]
    unit_axis: int
    dtype: str = "float32"
    neck: bool = True
    reason: str = ""

    def units_first(self, values: np.ndarray) -> np.ndarray:
        """``(N, U, h, w)`` of the tensor, whatever its layout."""
        return np.moveaxis(values, self.unit_axis, 1)

    def in_layout(self, values: np.ndarray) -> np.ndarray:
        """The inverse: ``(N, U, h, w)`` in the tensor's own layout."""
        return np.ascontiguousarray(np.moveaxis(values, 1, self.unit_axis))

    def __str__(self) -> str:
        return f"{self.tensor}: {self.units} units of {self.size[0]} x {self.size[1]} ({self.op_type})"


def feature_maps(
    index: GraphIndex, run: Callable[[Sequence[str]], Mapping[str, np.ndarray]], output: str, layout: str
) -> tuple[GeneratorLayer, ...]:
    """Every tensor between latent and picture that has units and places, in order.

    Args:
        index: of the generator.
        run: runs one sample and returns tensors by name.
        output: the picture.
        layout: of the picture, for tensors whose layout nothing tells.
    """
    needed = index.ancestors(output) - {output}
    nodes = [n for n in index.nodes if n.op_type not in _PLUMBING and n.output and n.output[0] in needed]
    names = [n.output[0] for n in nodes if not index.is_constant(n.output[0])]
    shapes = _shapes(run, names)
    necks: set[str] = set()
    for source in index.inputs:
        necks |= set(index.cut_tensors(source, output))
    rows = []
    for node in nodes:
        form = shapes.get(node.output[0])
        if form is None or len(form[0]) != 4 or form[1] not in _FLOATS:
            continue
        axis = _unit_axis(index, node.output[0], layout)
        shape = [n for i, n in enumerate(form[0]) if i not in (0, axis)]
        if shape[0] * shape[1] > 1 and form[0][axis] > 1:
            rows.append(
                GeneratorLayer(
                    node.output[0], index.label(node), node.op_type, form[0][axis], (shape[0], shape[1]), axis,
                    np.dtype(form[1]).name, node.output[0] in necks,
                )
            )  # fmt: skip
    return tuple(rows)


def _shapes(
    run: Callable[[Sequence[str]], Mapping[str, np.ndarray]], names: Sequence[str]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of tensors; those without a batch axis stop no others."""
    try:
        return {name: (a.shape, a.dtype.type) for name, a in run(names).items()}
    except ModelError:
        found = {}
        for name in names:
            try:
                array = run([name])[name]
            except ModelError:
                continue
            found[name] = (array.shape, array.dtype.type)
        return found


def _unit_axis(index: GraphIndex, tensor: str, layout: str) -> int:
    """Which axis of a map counts units: what its maker says, else what its readers say, else the picture's layout."""
    found = _axis_backward(index, tensor)
    if found is None:
        found = _axis_forward(index, tensor)
    return found if found is not None else (1 if layout == "NCHW" else 3)


def _axis_backward(index: GraphIndex, tensor: str) -> int | None:
    moves: list[Sequence[int]] = []
    node = index.producer(tensor)
    for _ in range(len(index.nodes)):
        if node is None or node.op_type in ("Reshape", "MatMul", "Gemm"):
            return None
        if node.op_type in _CHANNEL_SECOND:
            axis = 1
            for perm in reversed(moves):
                axis = list(perm).index(axis)
            return axis
        if node.op_type == "Transpose":
            moves.append(index.attrs(node).get("perm", [3, 2, 1, 0]))
        data = index.data_inputs(node)
        node = index.producer(data[0]) if data else None
    return None


def _axis_forward(index: GraphIndex, tensor: str) -> int | None:
    moves: list[Sequence[int]] = []
    for _ in range(len(index.nodes)):
        readers = index.consumers(tensor)
        if not readers:
            return None
        node = next((n for n in readers if n.op_type in _CHANNEL_SECOND), readers[0])
        if node.op_type in _CHANNEL_SECOND and node.input[0] == tensor:
            axis = 1
            for perm in reversed(moves):
                axis = list(perm)[axis]
            return axis
        if node.op_type in ("Reshape", "Gemm", "MatMul"):
            return None if node.op_type == "Reshape" else 3
        if node.op_type == "Transpose":
            moves.append(index.attrs(node).get("perm", [3, 2, 1, 0]))
        tensor = node.output[0]
    return None


def choose_layer(layers: Sequence[GeneratorLayer], picture: tuple[int, int]) -> GeneratorLayer:
    """The feature map halfway between the first size and the picture's, in octaves.

    Bau et al. found units that match objects in the middle of a generator: earlier ones mix objects, later ones
    draw edges and textures. Of the maps of that size the last activation is taken, and one that everything passes.

    Raises:
        LayerError: there is no feature map.
    """
    if not layers:
        raise LayerError("this generator has no feature maps (tensors with units and places) to dissect.")
    inner = [row for row in layers if math.prod(row.size) < math.prod(picture)] or list(layers)
    first = min(math.prod(row.size) for row in inner)
    middle = math.sqrt(first * math.prod(picture))
    distance = {row.size: abs(math.log(math.prod(row.size) / middle)) for row in inner}
    nearest = min(distance.values())
    there = [row for row in inner if distance[row.size] <= nearest + 1e-9]
    there = [row for row in there if row.size == there[-1].size]
    pool = [row for row in there if row.neck] or there
    active = [row for row in pool if row.op_type in _ACTIVATIONS]
    chosen = (active or pool)[-1]
    reason = (
        f"the last {'activation' if active else 'feature map'} at {chosen.size[0]} x {chosen.size[1]} places, halfway "
        f"in octaves from the first map ({round(math.sqrt(first))} px) to the picture ({picture[0]} x {picture[1]})"
    )
    return replace(chosen, reason=reason)
