"""Generators: one made by hand whose units paint known squares, and a trained one that draws faces.

The faces are a DCGAN (Radford, Metz & Chintala 2016) at 64 x 64 pixels, trained on the synthetic DigiFace1M, out of
the package ``gan-face-generate`` (MIT).
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.fetch import packaged_file

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SIDE", "SQUARES", "UNITS", "PaintedSquares", "export_faces", "faces_module", "squares_model"]

SIDE, UNITS = 16, 6
SQUARES: tuple[tuple[slice, slice], ...] = (
    (slice(1, 7), slice(1, 7)),
    (slice(9, 15), slice(2, 8)),
    (slice(4, 12), slice(9, 15)),
)
"""Rows and columns that units 0, 1 and 2 paint; the units after them paint nothing."""
_PACKAGE = ("gan-face-generate", "1.1.1", "gan_face_generate/weights.tar")


class PaintedSquares:
    """The hand-made generator in float64, slowly: latent ``(N, 6)`` to features and pictures."""

    def __init__(self) -> None:
        self.patterns = np.zeros((UNITS, SIDE, SIDE), np.float32)
        for unit, (rows, cols) in enumerate(SQUARES):
            self.patterns[unit, rows, cols] = 1
        self.patterns[3:] = np.random.default_rng(0).random((UNITS - 3, SIDE, SIDE)) < 0.3
        self.colors = np.zeros((3, UNITS), np.float32)
        self.colors[[0, 1, 2], [0, 1, 2]] = 1.5
        self.ground = np.float32(-0.6)

    def features(self, z: np.ndarray) -> np.ndarray:
        """``(N, 6, 16, 16)``: each unit's pattern, as strong as its latent where that is positive."""
        return np.maximum(z.astype(np.float64)[:, :, None, None] * self.patterns, 0)

    def picture(self, features: np.ndarray) -> np.ndarray:
        """``(N, 3, 16, 16)`` in -1..1."""
        return np.tanh(np.einsum("nuhw,cu->nchw", features, self.colors.astype(np.float64)) + self.ground)


def squares_model(
    *,
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    half: bool = False,
    batch: int | str = "batch",
    latent: Literal["flat", "map"] = "flat",
    opset: int = 17,
    conditional: bool = False,
) -> onnx.ModelProto:
    """The hand-made generator as ONNX; its features are the tensor ``features``.

    Unit 0 paints a red square, 1 a green, 2 a blue one, each where its latent is positive; the others paint nothing.

    Args:
        layout: of the features and the picture.
        half: compute in float16.
        batch: of the latent, fixed or free.
        latent: ``(N, 6)`` or ``(N, 6, 1, 1)``.
        opset: operator set.
        conditional: a second input ``class`` (int64) adds one to the latent of unit 0, 1 or 2.
    """
    made = PaintedSquares()
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    first = layout == "NCHW"
    shape = [0, UNITS, 1, 1] if first else [0, 1, 1, UNITS]
    patterns = made.patterns[None] if first else np.moveaxis(made.patterns, 0, -1)[None]
    weights: dict[str, np.ndarray[Any, Any]] = {
        "shape": np.array(shape, np.int64),
        "patterns": patterns.astype(dtype),
        "ground": np.array(made.ground, dtype),
        "colors": (made.colors[:, :, None, None] if first else made.colors.T).astype(dtype),
    }
    nodes = []
    z = "z"
    if conditional:
        weights["embedding"] = np.eye(3, UNITS, dtype=dtype)
        nodes += [
            helper.make_node("Gather", ["embedding", "class"], ["embedded"], "lookup"),
            helper.make_node("Add", ["z", "embedded"], ["conditioned"], "condition"),
        ]
        z = "conditioned"
    nodes += [
        helper.make_node("Reshape", [z, "shape"], ["seed"], "reshape"),
        helper.make_node("Mul", ["seed", "patterns"], ["painted"], "paint"),
        helper.make_node("Relu", ["painted"], ["features"], "relu"),
        helper.make_node("Conv" if first else "MatMul", ["features", "colors"], ["mixed"], "mix"),
        helper.make_node("Add", ["mixed", "ground"], ["shifted"], "shift"),
        helper.make_node("Tanh", ["shifted"], ["picture"], "tanh"),
    ]
    places = [batch, 3, SIDE, SIDE] if first else [batch, SIDE, SIDE, 3]
    inputs = [helper.make_tensor_value_info("z", kind, [batch, UNITS, *([1, 1] if latent == "map" else [])])]
    if conditional:
        inputs.append(helper.make_tensor_value_info("class", TensorProto.INT64, [batch]))
    graph = helper.make_graph(
        nodes,
        "squares",
        inputs,
        [helper.make_tensor_value_info("picture", kind, places)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@functools.cache
def faces_module() -> nn.Module:
    """The trained generator of faces in eval mode, parameters frozen.

    z ``(N, 100, 1, 1)`` to ``(N, 3, 64, 64)`` in -1..1: five transposed convolutions, doubling from 4 x 4.
    """
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for into, out, stride in ((100, 512, 1), (512, 256, 2), (256, 128, 2), (128, 64, 2)):
        layers += [nn.ConvTranspose2d(into, out, 4, stride, stride - 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    module = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())
    stored = torch.load(packaged_file(*_PACKAGE), map_location="cpu", weights_only=True)["netG_state_dict"]
    module.load_state_dict({name.removeprefix("main."): values for name, values in stored.items()})
    return module.eval().requires_grad_(False)


def export_faces(exporter: Literal["legacy", "dynamo"] = "legacy", batch: int | None = None) -> Path:
    """The faces generator as an ONNX file.

    Args:
        exporter: of torch.
        batch: fixed at this number; free where left out.
    """
    import torch

    from support.zoo import cache_folder

    path = cache_folder() / f"dcgan-faces-{exporter}-{batch or 'free'}.onnx"
    if path.exists():
        return path
    options: dict[str, Any] = {"input_names": ["z"], "output_names": ["picture"], "dynamo": exporter == "dynamo"}
    if exporter == "legacy":
        options["opset_version"] = 17
        options["dynamic_axes"] = None if batch else {"z": {0: "batch"}, "picture": {0: "batch"}}
    elif not batch:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        partial = Path(scratch) / path.name
        z = torch.zeros(batch or 2, 100, 1, 1)
        if exporter == "dynamo":
            torch.onnx.export(faces_module(), (z,), str(partial), external_data=False, verbose=False, **options)
        else:
            torch.onnx.export(faces_module(), (z,), str(partial), **options)
        partial.replace(path)
    return path
