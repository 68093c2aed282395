"""Drawing: scales that are data, colors that mean the map, figures, contact sheets and one HTML page.

Everything here works on arrays and small values of its own and knows no model.
"""

from onnxvis.render.boxes import draw_boxes
from onnxvis.render.figure import figure, scale_note
from onnxvis.render.overlay import has_unseen, heat_layer, heatmap, overlay
from onnxvis.render.png import png_bytes
from onnxvis.render.scale import Scale
from onnxvis.render.sheet import SheetCell, SheetColumn, SheetRow, contact_sheet

__all__ = [
    "Scale",
    "SheetCell",
    "SheetColumn",
    "SheetRow",
    "contact_sheet",
    "draw_boxes",
    "figure",
    "has_unseen",
    "heat_layer",
    "heatmap",
    "overlay",
    "png_bytes",
    "scale_note",
]
