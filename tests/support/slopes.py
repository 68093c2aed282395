"""Gradients of small graphs three ways: ONNX operators in onnxruntime, finite differences, torch autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from onnxvis.converters import convert
from onnxvis.graph.gradient import build_vjp
from support.onnx_nodes import Array, run_onnxruntime

__all__ = ["autograd", "differences", "fixed_shapes", "onnx_gradients", "with_constants"]


def with_constants(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with some of its inputs turned into initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = [value for value in changed.graph.input if value.name not in values]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in values.items())
    return changed


def fixed_shapes(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with the shapes of these arrays declared."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for value in changed.graph.input:
        array = feeds[value.name]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, array.shape))
    return changed


def onnx_gradients(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    output: str,
    wrt: Sequence[str],
    cotangent: Array,
    rule: str = "backprop",
) -> list[Array]:
    """The gradients that the graph made of ONNX operators computes in onnxruntime."""
    graph = build_vjp(model, output, wrt, "the_cotangent", rule)
    taken = {value.name for value in graph.graph.input}
    given = {name: array for name, array in feeds.items() if name in taken}
    names = [f"gradient/{name}" for name in wrt]
    assert [value.name for value in graph.graph.output][-len(names) :] == names
    return run_onnxruntime(graph, {**given, "the_cotangent": cotangent}, names)


def autograd(
    model: onnx.ModelProto, feeds: Mapping[str, Array], output: str, wrt: Sequence[str], cotangent: Array
) -> list[Array]:
    """The same by torch autograd through the converted graph, in float64."""
    graph = convert(model).to_dtype(torch.float64)
    tensors = {name: _double(array) for name, array in feeds.items()}
    variables = [tensors[name].requires_grad_() for name in wrt]
    made = graph(tensors, [output])[output]
    found = torch.autograd.grad(made, variables, _double(cotangent), allow_unused=True)
    return [
        np.asarray((torch.zeros_like(v) if g is None else g).numpy()) for v, g in zip(variables, found, strict=True)
    ]


def differences(
    model: onnx.ModelProto, feeds: Mapping[str, Array], output: str, wrt: Sequence[str], cotangent: Array
) -> list[Array]:
    """Central differences of ``sum(cotangent * output)``, the forward pass computed in float64."""
    graph = convert(model).to_dtype(torch.float64)
    tensors = {name: _double(array) for name, array in feeds.items()}
    weights, step = _double(cotangent), 1e-5

    def score() -> float:
        with torch.no_grad():
            return float((graph(tensors, [output])[output] * weights).sum())

    found = []
    for name in wrt:
        values = tensors[name].reshape(-1)
        slopes = np.zeros(values.numel())
        for i in range(values.numel()):
            middle = float(values[i])
            values[i] = middle + step
            above = score()
            values[i] = middle - step
            slopes[i] = (above - score()) / (2 * step)
            values[i] = middle
        found.append(slopes.reshape(feeds[name].shape))
    return found


def _double(array: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array, copy=True))
    return tensor.double() if tensor.is_floating_point() else tensor
