"""The concrete shape of every tensor, measured by running a graph with all tensors exposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

__all__ = ["feeds_of", "measure_shapes", "run_all"]


def feeds_of(model: onnx.ModelProto, size: int = 64, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """A random picture for each graph input; a free batch axis is 1, other free axes are ``size``."""
    stored = {t.name for t in model.graph.initializer}
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        dims = [n if n > 0 else (1 if i == 0 else size) for i, n in enumerate(dims)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = rng.standard_normal(dims).astype(dtype)
    return feeds


def run_all(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray[Any, Any]], *, optimize: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """The value of every tensor that onnxruntime can hand out."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    have = {o.name for o in exposed.graph.output}
    for node in exposed.graph.node:
        for tensor in node.output:
            if tensor and tensor not in have:
                exposed.graph.output.add().name = tensor
                have.add(tensor)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(exposed.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    values: dict[str, np.ndarray[Any, Any]] = dict(feeds)
    values.update({n: v for n, v in zip(names, session.run(None, feeds), strict=True) if v is not None})
    return values


def measure_shapes(model: onnx.ModelProto | Path, size: int = 64) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, for a random picture; initializers are included."""
    if isinstance(model, Path):
        model = onnx.load(str(model))
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes.update({n: tuple(np.shape(v)) for n, v in run_all(model, feeds_of(model, size)).items()})
    return shapes
