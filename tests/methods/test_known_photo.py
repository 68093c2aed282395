"""The photo of a dog beside a cat that every paper on Grad-CAM shows, explained by a trained network."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from support.fetch import packaged_file

import onnxvis
from onnxvis import demo

# The photo is 224 x 224 and shown to the network as it is, so these are its pixels and those of the input grid.
WHOLE = {"resize": "none", "scale": 1 / 128, "mean": 127 / 128}
DOG, CAT = (slice(10, 105), slice(40, 175)), (slice(120, 224), slice(55, 170))
PLACES = {"bull mastiff": (DOG, (48, 112)), "tiger cat": (CAT, (176, 112))}


@functools.cache
def photo() -> str:
    return str(packaged_file("grad-cam", "1.5.4", "examples/both.png", source=True))


@functools.cache
def model(exporter: str) -> onnxvis.Model:
    return onnxvis.load(demo.lite0(exporter), preprocessing=WHOLE)


def share(values: np.ndarray, box: tuple[slice, slice]) -> tuple[float, float]:
    """Mean inside and outside of a box."""
    inside = np.zeros(values.shape, bool)
    inside[box] = True
    return float(values[inside].mean()), float(values[~inside].mean())


@pytest.mark.parametrize("exporter", demo.EXPORTERS)
def test_grad_cam_finds_the_animal(exporter: str) -> None:
    for found in onnxvis.explain(model(exporter), photo(), "grad-cam", tuple(PLACES)):
        box, expected = PLACES[found.target]
        peak = np.unravel_index(found.attribution.argmax(), found.attribution.shape)
        assert np.abs(np.subtract(peak, expected)).max() <= 4, (found.target, peak)
        inside, outside = share(found.attribution, box)
        assert inside > 2 * abs(outside)
        assert found.parity.passed


def test_the_way_back_from_the_networks_own_crop() -> None:
    """With the preprocessing that was shipped the border is cut off: the peak moves, but stays on the animal."""
    cropped = onnxvis.load(demo.lite0())
    for found in onnxvis.explain(cropped, photo(), "grad-cam", tuple(PLACES)):
        seen = found.on_picture()
        assert np.isnan(seen[:13]).all()
        row, column = np.unravel_index(np.nanargmax(seen), seen.shape)
        rows, columns = PLACES[found.target][0]
        assert rows.start <= row < rows.stop
        assert columns.start <= column < columns.stop


def test_the_contrast_divides_the_picture() -> None:
    found = onnxvis.explain(model("dynamo"), photo(), "grad-cam", "bull mastiff - tiger cat")
    assert share(found.attribution, DOG)[0] > 0 > share(found.attribution, CAT)[0]


def test_occlusion_finds_the_animal() -> None:
    for found in onnxvis.explain(model("dynamo"), photo(), "occlusion", tuple(PLACES), window=64, stride=32):
        inside, outside = share(found.attribution, PLACES[found.target][0])
        assert inside > 0
        assert inside > outside


def test_saliency_looks_at_the_animal() -> None:
    for found in onnxvis.explain(model("dynamo"), photo(), "saliency", tuple(PLACES)):
        inside, outside = share(found.heat(), PLACES[found.target][0])
        assert inside > 1.2 * outside
