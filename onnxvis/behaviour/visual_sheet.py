"""Drawing class visualizations: the restarts, the stages of the best one, what the file says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from onnxvis.behaviour.visual_tiles import Tile, TileRow, tile_sheet
from onnxvis.render.scale import format_value

if TYPE_CHECKING:
    from onnxvis.behaviour.visualization import Restart, Visualization

__all__ = ["visualization_sheet"]

_SIDE = 224
_MOST = 6


def visualization_sheet(found: Visualization) -> Image.Image:
    """The best picture with its prediction, the stages of its climb, and the other restarts."""
    best = found.best
    rows = [TileRow([_stage(stage.picture, stage.step, stage.score) for stage in best.stages], "Stages")]
    if len(found.restarts) > 1:
        rows.append(TileRow([_end(r, r is best) for r in found.restarts], "Restarts"))
    title = f"What excites {found.target}: score {format_value(found.score, signed=True)}"
    return tile_sheet(rows, columns=_MOST, title=title, notes=_notes(found))


def _notes(found: Visualization) -> list[str]:
    top = found.best.prediction.top[:3]
    answers = [
        f"{c.label} {c.logit:+.2f}" + (f" ({c.probability:.1%})" if c.probability is not None else "") for c in top
    ]
    return [
        f"The score is {found.reason}." if found.kind != "class" else "The score is that of the logits.",
        f"The deployed file answers: {'; '.join(answers)}.",
        f"Mid gray scores {format_value(found.start_score, signed=True)}. Recipe {found.recipe.name}: "
        f"{found.recipe.summary()}; seed {found.seed}.",
        f"Parity: {found.parity.sentence()}.",
        *(f"{note[0].upper()}{note[1:]}." for note in found.notes),
    ]


def _stage(picture: np.ndarray, step: int, score: float) -> Tile:
    return Tile(_fitted(picture), f"step {step}: {format_value(score, signed=True)}")


def _end(restart: Restart, best: bool) -> Tile:
    mark = ", best" if best else ""
    return Tile(_fitted(restart.picture), f"{restart.number}: {format_value(restart.score, signed=True)}{mark}")


def _fitted(picture: np.ndarray) -> Image.Image:
    shown = picture[..., :1].repeat(3, axis=2) if picture.shape[2] < 3 else picture[..., :3]
    image = Image.fromarray(np.ascontiguousarray(shown))
    factor = _SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS if factor < 2 else Image.Resampling.NEAREST)
