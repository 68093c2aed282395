"""Small ONNX models for tests, and onnxruntime's answer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Array", "build", "run_onnxruntime", "single"]

Array = np.ndarray[Any, np.dtype[Any]]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model from nodes; ``inputs`` are examples that give names, types and ranks; outputs are untyped."""
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        declared,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=min(10, onnx.IR_VERSION))


def single(
    op_type: str,
    inputs: Mapping[str, Array | None],
    *,
    constants: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node. Inputs that are None are left out; those in ``constants`` become initializers."""
    names = [name if value is not None else "" for name, value in inputs.items()]
    node = helper.make_node(op_type, names, list(outputs), domain=domain, name="the_node", **attributes)
    given = {name: value for name, value in inputs.items() if value is not None}
    return build(
        [node],
        {name: value for name, value in given.items() if name not in constants},
        outputs,
        {name: value for name, value in given.items() if name in constants},
        opset=opset,
        domains={domain: 1} if domain else None,
    )


def run_onnxruntime(
    model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> list[Array]:
    """What onnxruntime computes on one CPU thread, without graph optimization."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs) if outputs else None, dict(feeds)))
