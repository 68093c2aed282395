"""The stand-in for torchvision's operators."""

from __future__ import annotations

import numpy as np
import torch

from onnxvis.converters.torchvision_shim import ensure_torchvision, non_maximum_suppression


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_onnx2torch_imports_after_it() -> None:
    ensure_torchvision()
    import onnx2torch

    assert callable(onnx2torch.convert)
    assert ensure_torchvision() in (True, False)


def test_suppression_against_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 10, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 6, (40, 2))], axis=1)
    scores = rng.permutation(40) / 40
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(_iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.4 for j in kept):
            kept.append(int(i))
    assert non_maximum_suppression(torch.tensor(boxes), torch.tensor(scores), 0.4).tolist() == kept
    assert non_maximum_suppression(torch.zeros(0, 4), torch.zeros(0), 0.4).tolist() == []
