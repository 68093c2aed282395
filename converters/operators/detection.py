"""NonMaxSuppression."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator
from onnxvis.converters.torchvision_shim import non_maximum_suppression

__all__: list[str] = []


def _corners(boxes: Tensor, centered: bool) -> Tensor:
    """Boxes as ``x1, y1, x2, y2`` with ordered corners."""
    if centered:
        x, y, half_width, half_height = boxes[:, 0], boxes[:, 1], boxes[:, 2] / 2, boxes[:, 3] / 2
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=1)
    y1, x1, y2, x2 = boxes.unbind(dim=1)
    corners = [torch.minimum(x1, x2), torch.minimum(y1, y2), torch.maximum(x1, x2), torch.maximum(y1, y2)]
    return torch.stack(corners, dim=1)


def _number(value: Tensor | None, default: float) -> float:
    return default if value is None or value.numel() == 0 else float(value.reshape(()).item())


@converter("NonMaxSuppression")
def _suppress(node: Node) -> Operator:
    centered = bool(node.attr("center_point_box", 0))

    def run(
        boxes: Tensor,
        scores: Tensor,
        most: Tensor | None = None,
        overlap: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        limit, threshold = int(_number(most, 0)), _number(overlap, 0.0)
        found = []
        for batch in range(scores.shape[0]):
            corners = _corners(boxes[batch].detach(), centered)
            for label in range(scores.shape[1]):
                score = scores[batch, label].detach()
                usable = torch.arange(score.numel(), device=score.device)
                if least is not None and least.numel():
                    usable = usable[score > least.reshape(()).to(score.device)]
                kept = usable[non_maximum_suppression(corners[usable], score[usable], threshold)][:limit]
                place = torch.tensor([batch, label], device=kept.device).expand(kept.numel(), 2)
                found.append(torch.cat([place, kept[:, None]], dim=1))
        return torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int64)

    return operator(node, run, host=(2, 3, 4))
