"""Let torchvision, and with it onnx2torch, be imported beside a torch that cannot load its C++ operators.

onnx2torch imports torchvision unconditionally. The wheel of torchvision in the package registries is built
for CUDA; beside a CPU-only torch its extension does not load, and torchvision then fails on import with
``operator torchvision::nms does not exist``. Declaring the operators it asks for is enough to import it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["ensure_torchvision", "non_maximum_suppression"]

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A torch.library.Library takes its operators with it when it is collected, so it lives as long as we do.
_libraries: list[torch.library.Library] = []


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(N, 4)``, corners ``x1, y1, x2, y2`` with ``x1 <= x2`` and ``y1 <= y2``.
        scores: ``(N,)``.
        iou_threshold: a box is dropped when it overlaps a better one by more than this.

    Returns:
        ``(K,) int64``: the kept boxes, best score first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Tensor] = []
    while order.numel() > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        union = area[best] + area[rest] - overlap
        order = rest[overlap <= iou_threshold * union]
    if not kept:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    return torch.stack(kept)


def ensure_torchvision() -> bool:
    """Make ``import torchvision`` safe; a no-op when its own extension loads or it is not installed.

    Returns:
        Whether stand-in operators had to be declared.
    """
    if _libraries:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or _extension_loads(spec.submodule_search_locations):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", non_maximum_suppression, "CPU")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    return True


def _extension_loads(locations: list[str]) -> bool:
    extensions = [path for location in locations for path in Path(location).glob("_C*.so")]
    extensions += [path for location in locations for path in Path(location).glob("_C*.pyd")]
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(extensions)
