"""The same network for an input that is shifted by a constant.

Kindermans et al., "The (Un)reliability of Saliency Methods", 2017: a network that first takes the constant off again
answers the shifted picture as the original one answers the picture. An explanation of it should not change either.
"""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper
from onnx.onnx_pb import ModelProto

from onnxvis.errors import ModelError

__all__ = ["shift_input"]


def shift_input(model: ModelProto, name: str, amount: float) -> ModelProto:
    """A copy of a model that takes ``amount`` off one input before anything else.

    Args:
        model: any model; not changed.
        name: of a float input.
        amount: the constant.

    Raises:
        ModelError: there is no such input, or it holds no floats.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    given = next((value for value in graph.input if value.name == name), None)
    if given is None:
        raise ModelError(f"the model has no input {name!r}.")
    dtype = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    if dtype.kind != "f":
        raise ModelError(f"the input {name!r} holds {dtype}, which cannot be shifted by {amount:g}.")
    taken = {t for node in graph.node for t in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    fresh, constant = _free(f"{name}_shifted", taken), _free(f"{name}_shift", taken)
    for node in graph.node:
        for place, tensor in enumerate(node.input):
            if tensor == name:
                node.input[place] = fresh
    graph.initializer.append(numpy_helper.from_array(np.asarray(amount, dtype), constant))
    shift = helper.make_node("Sub", [name, constant], [fresh], _free(f"{name}_shift_back", taken))
    nodes = [shift, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
