"""The written file against what was trained and against the deployed backbone, before anybody believes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxvis.errors import ConversionError
from onnxvis.methods.scouter import METADATA_KEY
from onnxvis.model import Model, load

if TYPE_CHECKING:
    from onnxvis.picture import PictureSource

__all__ = ["verify"]

_TOLERANCE = 1e-4
"""Largest difference of the logits, relative to the largest: float32 rounding through a network and three rounds."""


def verify(
    model: Model,
    proto: onnx.ModelProto,
    pictures: Sequence[PictureSource],
    expected: np.ndarray,
    feature: str,
    exact: bool,
) -> list[str]:
    """Run the joined file on some pictures.

    Args:
        model: the deployed classifier.
        proto: the joined file.
        pictures: some pictures.
        expected: logits of the trained module on them, ``(N, K)``.
        feature: the feature map's tensor.
        exact: whether the feature map has to be the deployed file's own.

    Returns:
        What was found, one sentence each.

    Raises:
        ConversionError: the file does not compute what was trained.
    """
    onnx.checker.check_model(proto)
    record = json.loads(next(e.value for e in proto.metadata_props if e.key == METADATA_KEY))
    joined = load(proto, provider=model.provider.short, inputs=model.engine.constants)
    x = np.concatenate([model.prepare(picture).tensor for picture in pictures])
    logits = joined.engine.forward(x, (record["logits"],))[record["logits"]]
    error = float(np.abs(logits - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not error <= _TOLERANCE:
        raise ConversionError(
            f"the written file's logits differ from the trained ones by {error:.1e} of the largest, more than "
            f"{_TOLERANCE:g}: nothing is written. Please report this with the model."
        )
    notes = [f"the file's logits agree with the trained module to {error:.1e} of the largest, on {len(x)} pictures"]
    if not exact:
        return notes
    own, given = (each.engine.forward(x, (feature,))[feature] for each in (joined, model))
    if np.array_equal(own, given):
        return [*notes, "its feature map is the deployed file's, bit by bit"]
    gap = float(np.abs(own.astype(np.float64) - given).max() / max(float(np.abs(given).max()), 1e-12))
    if not gap <= model.engine.output_tolerance:
        raise ConversionError(
            f"the written file's feature map differs from the deployed one by {gap:.1e} of its largest value: nothing "
            "is written. Choose another layer with --layer."
        )
    return [*notes, f"its feature map is the deployed file's up to rounding ({gap:.1e} of its largest value)"]
