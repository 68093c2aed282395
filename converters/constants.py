"""Constants of an ONNX graph as torch tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import AttributeProto, TensorProto, numpy_helper
from torch import Tensor

from onnxvis.errors import ConversionError

__all__ = ["FLOATS", "attributes_of", "node_constant", "onnx_dtype", "tensor_of"]

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    | {getattr(TensorProto, name) for name in dir(TensorProto) if name.startswith(("FLOAT8", "FLOAT4"))}
)
"""Element types that become the working float type."""

_EXACT: dict[int, torch.dtype] = {
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
}


def onnx_dtype(element_type: int, working: torch.dtype) -> torch.dtype | None:
    """The torch type that holds an ONNX element type; None for strings and complex numbers.

    Every float type becomes ``working``. Unsigned types beyond uint8, which torch barely supports, are held
    in the next wider signed type.
    """
    return working if element_type in FLOATS else _EXACT.get(element_type)


def tensor_of(proto: TensorProto, working: torch.dtype = torch.float32) -> Tensor | None:
    """An initializer or tensor attribute as a torch tensor; None when it holds strings.

    Raises:
        ConversionError: the data is external and was not loaded.
    """
    dtype = onnx_dtype(proto.data_type, working)
    if dtype is None:
        return None
    if proto.data_location == TensorProto.EXTERNAL and not proto.HasField("raw_data"):
        raise ConversionError(
            f"The data of tensor {proto.name!r} is in an external file that was not loaded; "
            "load it first with onnx.load_external_data_for_model."
        )
    array = numpy_helper.to_array(_in_memory(proto))
    if proto.data_type in FLOATS:
        wide = np.float64 if working == torch.float64 else np.float32
        return torch.from_numpy(np.array(array, dtype=wide, copy=True)).to(dtype)
    if proto.data_type in (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64):
        array = array.astype(np.int64)
    elif proto.data_type in (TensorProto.INT4, TensorProto.UINT4):
        array = array.astype(np.int8)
    return torch.from_numpy(np.array(array, copy=True)).to(dtype)


def _in_memory(proto: TensorProto) -> TensorProto:
    if proto.data_location != TensorProto.EXTERNAL:
        return proto
    copy = TensorProto()
    copy.CopyFrom(proto)
    copy.data_location = TensorProto.DEFAULT
    return copy


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """Decoded attributes of a node: text as str, everything else as onnx.helper gives it."""
    return {attribute.name: _decode(attribute) for attribute in node.attribute}


def _decode(attribute: AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode("utf-8", errors="replace") for text in value]
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def node_constant(attributes: Mapping[str, object], working: torch.dtype) -> Tensor | None:
    """The value of a Constant node, in any of the attribute forms of the standard; None for strings."""
    match attributes:
        case {"value": TensorProto() as proto}:
            return tensor_of(proto, working)
        case {"value_float": float(number)}:
            return torch.tensor(number, dtype=working)
        case {"value_floats": list(numbers)}:
            return torch.tensor(numbers, dtype=working)
        case {"value_int": int(number)}:
            return torch.tensor(number, dtype=torch.int64)
        case {"value_ints": list(numbers)}:
            return torch.tensor(numbers, dtype=torch.int64)
        case {"sparse_value": onnx.SparseTensorProto() as sparse}:
            return _dense(sparse, working)
        case _:
            return None


def _dense(sparse: onnx.SparseTensorProto, working: torch.dtype) -> Tensor | None:
    values, indices = tensor_of(sparse.values, working), tensor_of(sparse.indices)
    if values is None or indices is None:
        return None
    dims = list(sparse.dims)
    flat = torch.zeros(int(np.prod(dims, dtype=np.int64)), dtype=values.dtype)
    if indices.dim() == 2:
        strides = torch.tensor([int(np.prod(dims[i + 1 :], dtype=np.int64)) for i in range(len(dims))])
        indices = (indices * strides).sum(dim=1)
    flat[indices] = values
    return flat.reshape(dims)
