"""The layer table, and names that users write."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import Builder
from support.shapes import measure_shapes
from support.zoo import export, torch_module

from onnxvis.errors import LayerError
from onnxvis.graph.layers import Layer, layer_table, resolve_layer
from onnxvis.graph.receptive import receptive_fields


def _table(model: onnx.ModelProto, size: int = 64) -> list[Layer]:
    shapes = measure_shapes(model, size)
    return layer_table(model, shapes, receptive_fields(model, shapes))


@pytest.fixture(scope="module")
def resnet() -> tuple[onnx.ModelProto, list[Layer]]:
    model = onnx.load(str(export("resnet18", "legacy", 17, 64)))
    return model, _table(model)


@pytest.mark.parametrize("net", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_parameters_and_multiply_adds_agree_with_torch(net: str) -> None:
    """Counted from the modules' shapes by forward hooks; BatchNorms that the exporter folded are left out."""
    import torch

    model = onnx.load(str(export(net, "legacy", 17, 64)))
    table = _table(model)
    multiply_adds, weights = 0, 0

    def count(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal multiply_adds, weights
        assert isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        weights += module.weight.numel()
        multiply_adds += out.numel() * module.weight[0].numel()

    torch_net = torch_module(net)
    for module in torch_net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    torch_net(torch.zeros(1, 3, 64, 64))
    assert sum(row.multiply_adds for row in table) == multiply_adds
    stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    weighted = [row for row in table if row.op_type in ("Conv", "Gemm", "BatchNormalization")]
    assert sum(row.parameters for row in weighted) == stored
    assert stored > weights


def test_rows_of_the_table(resnet: tuple[onnx.ModelProto, list[Layer]]) -> None:
    _, table = resnet
    first, last = table[0], table[-1]
    assert (first.tensor, first.op_type, first.shape) == ("/conv1/Conv_output_0", "Conv", (1, 64, 32, 32))
    assert (first.parameters, first.multiply_adds) == (64 * 3 * 49 + 64, 64 * 32 * 32 * 147)
    assert first.field_size == (7, 7)
    assert first.field_jump == (2, 2)
    assert first.is_convolution
    assert (last.op_type, last.shape, last.field_size) == ("Gemm", (1, 1000), None)
    assert {row.op_type for row in table} == {"Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Gemm"}


def test_shared_weights_are_counted_once() -> None:
    b = Builder([1, 4, 8, 8])
    weight = b.weight(4, 4, 1, 1)
    first = b.node("Conv", b.name, weight)
    b.node("Conv", first, b.node("Identity", weight))
    table = _table(b.model(first))
    assert [row.parameters for row in table] == [16, 0]
    assert table[1].shared == (weight,)


def test_products_of_every_kind() -> None:
    b = Builder([2, 4, 6, 6])
    up = b.node("ConvTranspose", b.name, b.weight(4, 3, 2, 2), strides=[2, 2])
    flat = b.node("Flatten", b.node("GlobalAveragePool", up))
    made = b.node("MatMul", flat, b.weight(3, 7))
    b.node("Gemm", made, b.weight(7, 5), b.weight(5))
    table = {row.op_type: row for row in _table(b.model(made))}
    assert table["ConvTranspose"].multiply_adds == 2 * 4 * 6 * 6 * 3 * 4
    assert table["MatMul"].multiply_adds == 2 * 3 * 7
    assert (table["Gemm"].multiply_adds, table["Gemm"].parameters) == (2 * 7 * 5, 40)
    assert table["GlobalAveragePool"].multiply_adds == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/layer4/layer4.1/relu_1/Relu_output_0", "/layer4/layer4.1/relu_1/Relu_output_0"),
        ("/layer4/layer4.1/relu_1/Relu", "/layer4/layer4.1/relu_1/Relu_output_0"),
        ("layer4.1/relu_1/Relu", "/layer4/layer4.1/relu_1/Relu_output_0"),
        ("conv:-1", "/layer4/layer4.1/conv2/Conv_output_0"),
        ("Conv:0", "/conv1/Conv_output_0"),
        ("relu:0", "/relu/Relu_output_0"),
        ("layer4.1", "/layer4/layer4.1/relu_1/Relu_output_0"),
        ("layer2", "/layer2/layer2.1/relu_1/Relu_output_0"),
        ("fc", "logits"),
        ("logits", "logits"),
        ("input", "input"),
    ],
)
def test_names_that_are_understood(resnet: tuple[onnx.ModelProto, list[Layer]], name: str, expected: str) -> None:
    assert resolve_layer(name, *resnet) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer5", "Did you mean 'layer"),
        ("conv:20", "20 of them, 0 to 19"),
        ("Conv_output_0", "could be 20 tensors"),
        ("fc.weight", "is a constant"),
        ("", "There is no layer ''"),
    ],
)
def test_names_that_are_not(resnet: tuple[onnx.ModelProto, list[Layer]], name: str, message: str) -> None:
    with pytest.raises(LayerError, match=re.escape(message)):
        resolve_layer(name, *resnet)


def test_tensors_inside_a_body_cannot_be_had() -> None:
    b = Builder([1, 1, 4, 4])
    bodies = []
    for op_type in ("Relu", "Neg"):
        node = helper.make_node(op_type, [b.name], [f"inner_{op_type}"])
        out = helper.make_tensor_value_info(f"inner_{op_type}", TensorProto.FLOAT, [1, 1, 4, 4])
        bodies.append(helper.make_graph([node], op_type, [], [out]))
    chosen = b.node("If", b.constant(np.array(True)), then_branch=bodies[0], else_branch=bodies[1])
    model = b.model(chosen)
    with pytest.raises(LayerError, match="body of If"):
        resolve_layer("inner_Relu", model, _table(model))
