"""Cover windows inside the graph: one picture goes in once, and after that only where the windows lie.

    picture (1, C, H, W) --------------------------------+
    baseline, broadcastable to (M, C, H, W) ----------+  |
    offsets (M, 2) -> rows, columns inside? -> And -> Where -> batch (M, C, H, W) -> the model

A batch of covered pictures of a GPU is made where it is used: sixteen bytes for each cross the bus, not a picture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx
from onnx import TensorProto, helper

from onnxvis.errors import ModelError

__all__ = ["Occluded", "occlude"]

_OLDEST = 11  # Range, and Where and Less for whole numbers before it


class Occluded(NamedTuple):
    """A model that covers windows itself, and the names of its new inputs.

    Attributes:
        model: the graph.
        picture: ``(1, C, H, W)`` or ``(1, H, W, C)``, in the type of the model's input.
        offsets: ``(M, 2) int64``, first row and first column of each window.
        window: ``(2,) int64``, its height and width; what lies outside of the picture is nothing.
        baseline: what stands in the windows, in the type of the model's input; broadcastable to the batch.
    """

    model: onnx.ModelProto
    picture: str
    offsets: str
    window: str
    baseline: str


def occlude(model: onnx.ModelProto, image_input: str, layout: str = "NCHW") -> Occluded:
    """Put the masked batch in front of a model whose batch axis is free.

    Args:
        model: it is not changed.
        image_input: the input that takes the batch; it becomes an inner tensor of the same name.
        layout: of that input, "NCHW" or "NHWC".

    Raises:
        ModelError: the operator set is older than the operators needed, or the input does not exist or has no
            element type.
    """
    version = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if version < _OLDEST:
        raise ModelError(f"windows cannot be covered inside a graph of opset {version}: Range came with {_OLDEST}.")
    declared = next((value for value in model.graph.input if value.name == image_input), None)
    if declared is None or not declared.type.tensor_type.elem_type:
        raise ModelError(f"the graph has no input {image_input!r} with a known element type to cover windows in.")
    kind, shape = declared.type.tensor_type.elem_type, _shape(declared)
    prefix = _free_prefix(model)
    name = {key: f"{prefix}{key}" for key in ("picture", "offsets", "window", "baseline")}
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    graph = edited.graph
    del graph.node[:], graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name["picture"], kind, [1, *shape[1:]]))
    graph.input.append(helper.make_tensor_value_info(name["offsets"], TensorProto.INT64, [None, 2]))
    graph.input.append(helper.make_tensor_value_info(name["window"], TensorProto.INT64, [2]))
    graph.input.append(helper.make_tensor_value_info(name["baseline"], kind, [None] * 4))
    graph.input.extend(value for value in model.graph.input if value.name != image_input)
    graph.node.extend(_mask(prefix, name, layout))
    graph.node.append(helper.make_node("Where", [f"{prefix}covered", name["baseline"], name["picture"]], [image_input]))
    graph.node.extend(model.graph.node)
    read = {tensor for node in graph.node for tensor in node.input}
    graph.initializer.extend(number for number in _numbers(prefix) if number.name in read)
    return Occluded(edited, name["picture"], name["offsets"], name["window"], name["baseline"])


def _mask(prefix: str, name: dict[str, str], layout: str) -> list[onnx.NodeProto]:
    """Nodes for ``covered``: ``(M, 1, H, W)`` or ``(M, H, W, 1)`` bool."""
    nodes = [helper.make_node("Shape", [name["picture"]], [f"{prefix}shape"])]
    axis_of = {"rows": layout.index("H"), "columns": layout.index("W")}
    for number, (side, axis) in enumerate(axis_of.items()):
        own = f"{prefix}{side}_"
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Gather", [f"{prefix}shape", f"{prefix}axis{axis}"], f"{own}length", {"axis": 0}),
            ("Range", [f"{prefix}axis0", f"{own}length", f"{prefix}axis1"], f"{own}index", {}),
            ("Gather", [name["offsets"], f"{prefix}column{number}"], f"{own}first", {"axis": 1}),
            ("Gather", [name["window"], f"{prefix}axis{number}"], f"{own}size", {"axis": 0}),
            ("Add", [f"{own}first", f"{own}size"], f"{own}end", {}),
            ("Less", [f"{own}index", f"{own}first"], f"{own}before", {}),
            ("Not", [f"{own}before"], f"{own}begun", {}),
            ("Less", [f"{own}index", f"{own}end"], f"{own}unfinished", {}),
            ("And", [f"{own}begun", f"{own}unfinished"], f"{own}inside", {}),
            ("Reshape", [f"{own}inside", f"{prefix}{layout}{side}"], f"{own}mask", {}),
        ]
        nodes += [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in steps]
    nodes.append(helper.make_node("And", [f"{prefix}rows_mask", f"{prefix}columns_mask"], [f"{prefix}covered"]))
    return nodes


def _numbers(prefix: str) -> list[onnx.TensorProto]:
    """The constants of :func:`_mask`, for either layout."""
    found = [helper.make_tensor(f"{prefix}axis{n}", TensorProto.INT64, [], [n]) for n in range(4)]
    found += [helper.make_tensor(f"{prefix}column{n}", TensorProto.INT64, [1], [n]) for n in (0, 1)]
    for layout in ("NCHW", "NHWC"):
        for side, letter in (("rows", "H"), ("columns", "W")):
            shape = [0 if at == "N" else -1 if at == letter else 1 for at in layout]
            found.append(helper.make_tensor(f"{prefix}{layout}{side}", TensorProto.INT64, [4], shape))
    return found


def _free_prefix(model: onnx.ModelProto) -> str:
    """A prefix that no tensor of the graph begins with."""
    graph = model.graph
    names = {n for node in graph.node for n in (*node.input, *node.output)}
    names |= {t.name for t in (*graph.initializer, *graph.input, *graph.output)}
    prefix = "occlude_"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix


def _shape(value: onnx.ValueInfoProto) -> list[int | str | None]:
    dims = value.type.tensor_type.shape.dim
    found = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
    return found if len(found) == 4 else [None] * 4
