"""The box of a unit is exactly what its float64 gradient reaches, on whole networks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from support.zoo import export, image

import onnxvis
from onnxvis.model import Model

SIZES = {"alexnet": 224}  # its last pool is exported at no smaller size
NETS = (
    "alexnet",
    "densenet121",
    "googlenet",
    "mnasnet1_0",
    "mobilenet_v2",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
)


@functools.cache
def load(name: str) -> Model:
    return onnxvis.load(export(name, "legacy", 17, SIZES.get(name, 64)))


def sampled_layers(model: Model) -> list[str]:
    """Four layers from the first to the last whose units see less than everything in some direction."""
    size = model.example_shape()[2:]
    found = []
    for layer in model.layers:
        shape, field = model.shapes[layer.tensor], model.fields[layer.tensor]
        if (
            len(shape) == 4
            and field.spatial_axes == (2, 3)
            and field.exact
            and field.box(0, 0, clip=True) != (0, 0, *size)
        ):
            found.append(layer.tensor)
    return [found[k] for k in sorted({0, len(found) // 3, 2 * len(found) // 3, len(found) - 1})]


@pytest.mark.parametrize("name", NETS)
def test_boxes_are_the_support_of_the_gradient(name: str) -> None:
    model = load(name)
    size = model.example_shape()[2]
    rng = np.random.default_rng(len(name))
    x = np.concatenate([image(size, seed=s) for s in range(2)]).astype(np.float64)
    checked = 0
    for tensor in sampled_layers(model):
        _, units, rows, cols = model.shapes[tensor]
        places = {(0, 0), (rows // 2, cols // 2), (rows - 1, int(rng.integers(cols)))}
        for row, col in sorted(places):
            cotangent = np.zeros((len(x), units, rows, cols))
            cotangent[:, :, row, col] = rng.uniform(0.5, 1.5, (len(x), units))
            reached = np.zeros((size, size), bool)
            for i in range(len(x)):  # the files fix their batch at 1
                found = model.engine.gradients(
                    {model.image_input.name: x[i : i + 1]}, tensor, [cotangent[i : i + 1]],
                    (model.image_input.name,), float64=True,
                )  # fmt: skip
                reached |= (found.grads[0][model.image_input.name][0] != 0).any(axis=0)
            ys, xs = np.nonzero(reached)
            support = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert model.fields[tensor].box(row, col) == support, f"{tensor} at {row},{col}"
            checked += 1
    assert checked >= 6
