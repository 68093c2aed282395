"""The result of an explanation: the raw map, what it means, and everything needed to trust and repeat it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import OutputError, ResultExistsError, UsageError
from onnxvis.files import write_together
from onnxvis.prediction import Prediction
from onnxvis.preprocessing import Geometry, Prepared

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.render import Scale
    from onnxvis.runtime.parity import Parity

__all__ = ["MANIFEST_VERSION", "Explanation"]

MANIFEST_VERSION = 1
_LARGEST_DRAWING = 64_000_000
_CLIP_PERCENTILE = 99.5


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a deployed model gave one score on one picture.

    Attributes:
        attribution: raw float32 map in the model's input grid, ``(H, W)`` or ``(C, H, W)``; never rescaled,
            signed unless ``signed`` is false.
        units: what a value means.
        signed: whether negative values speak against the target.
        reduction: how channels are reduced for drawing: "max-abs" or "sum".
        method: name of the method; ``method_title`` is for headings.
        target: the target in words; ``target_spec`` as it was asked for; ``target_index`` its class.
        score: value of the target's score (a logit, or a difference of logits) on this picture.
        layer: tensor of the layer, with ``layer_reason``, or ``None``.
        layer_map: the map at the layer's resolution, or ``None``.
        parameters: everything that was set, defaults included.
        parity: agreement of the converted with the deployed model, or ``None`` where no gradient was used.
        prediction: what the model answers on this picture.
        prepared: the model's input, the picture, and the geometry between them.
        notes: every choice, approximation and fall-back, one sentence each.
        logits_note: which tensor was explained, and why.
        caution: when this method misleads.
        seconds: time of the method for this map.
        provenance: model, versions and platform, as plain data.
    """

    attribution: np.ndarray
    units: str
    signed: bool
    reduction: str
    method: str
    method_title: str
    target: str
    target_spec: str
    target_index: int | None
    score: float
    layer: str | None
    layer_reason: str
    layer_map: np.ndarray | None
    parameters: Mapping[str, Any]
    parity: Parity | None
    prediction: Prediction
    prepared: Prepared
    notes: tuple[str, ...]
    logits_note: str
    caution: str
    seconds: float
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.attribution.shape))
        name = self.prepared.picture.name if self.prepared.picture else "array"
        return f"<Explanation {self.method} of {self.target!r} ({self.score:+.3f}) on {name!r}, map {shape}>"

    # --- the map as it is drawn ------------------------------------------------------------------

    @property
    def pixelwise(self) -> bool:
        """Whether the map is one of single input values, noisy by nature, and not of areas."""
        return self.attribution.ndim == 3

    @property
    def drawn_signed(self) -> bool:
        """Whether the drawn map has a sign: the largest absolute value over channels has none."""
        return self.signed and not (self.attribution.ndim == 3 and self.reduction == "max-abs")

    def heat(self) -> np.ndarray:
        """The map as it is drawn, ``(H, W)`` float32 in the input grid, channels reduced as ``reduction`` says."""
        if self.attribution.ndim == 2:
            return self.attribution
        if self.reduction == "max-abs":
            return np.asarray(np.abs(self.attribution).max(axis=0))
        return np.asarray(self.attribution.sum(axis=0, dtype=np.float64).astype(np.float32))

    def on_picture(self) -> np.ndarray:
        """The drawn map on the original picture, ``(H0, W0)`` float32; NaN where the model saw nothing."""
        return self.prepared.geometry.map_to_picture(self.heat())

    def scale(self, others: Iterable[Explanation] = ()) -> Scale:
        """The color scale of this map, or one shared with others so that colors can be compared.

        Zero-centered for signed maps, from 0 otherwise. Maps of single input values are clipped at a high
        percentile, which the scale states; nothing else is. Exact zeros, such as all that a unit cannot see, do
        not count in that percentile.

        Raises:
            UsageError: the maps have different units.
        """
        from onnxvis.render import Scale

        group = [self, *others]
        units = {e.units for e in group}
        if len(units) > 1:
            raise UsageError(f"maps of different units cannot share a scale: {', '.join(sorted(units))}.")
        pixelwise = any(e.pixelwise for e in group)
        return Scale.for_maps(
            [_reached(e.heat()) if pixelwise else e.heat() for e in group],
            signed=any(e.drawn_signed for e in group),
            units=self.units,
            percentile=_CLIP_PERCENTILE if pixelwise else None,
        )

    def drawable(self, largest: int = _LARGEST_DRAWING) -> tuple[np.ndarray, np.ndarray]:
        """Picture ``(h, w, 3)`` uint8 and map ``(h, w)`` float32, at the picture's own size.

        A picture of more than ``largest`` pixels is drawn smaller.
        """
        picture = self.prepared.picture
        rgb = picture.rgb() if picture is not None else self.prepared.display()
        height, width = rgb.shape[:2]
        geometry = self.prepared.geometry
        if height * width > largest:
            from PIL import Image

            factor = (largest / (height * width)) ** 0.5
            size = (max(1, int(width * factor)), max(1, int(height * factor)))
            rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
            geometry = Geometry(
                size,
                geometry.input_size,
                (geometry.scale[0] * width / size[0], geometry.scale[1] * height / size[1]),
                geometry.offset,
            )
        return rgb, geometry.map_to_picture(self.heat())

    def overlay(self, scale: Scale | None = None) -> Image.Image:
        """The map in colors over the original picture, at its size."""
        from onnxvis.render import draw_boxes, overlay

        picture, values = self.drawable()
        drawn = overlay(picture, values, scale or self.scale())
        boxes = self.boxes(picture.shape[:2])
        return draw_boxes(drawn, boxes) if boxes else drawn

    def boxes(self, size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
        """The box that the method was asked for (option ``box``), where it found one.

        Args:
            size: (height, width) at which the picture is drawn.

        Returns:
            Edges ``(x0, y0, x1, y1)`` in pixels of that size; an empty list where there is no box.
        """
        found = self.parameters.get("box")
        if not isinstance(found, Mapping):
            return []
        width, height = self.prepared.geometry.picture_size
        x0, y0, x1, y1 = found["picture"]
        fx, fy = size[1] / width, size[0] / height
        return [(x0 * fx, y0 * fy, x1 * fx, y1 * fy)]

    def figure(self, scale: Scale | None = None) -> Image.Image:
        """The finished picture: heading, overlay, color bar with units, and the notes that matter."""
        from onnxvis.render import figure

        picture, values = self.drawable()
        return figure(
            picture,
            values,
            scale or self.scale(),
            title=f"{self.method_title}: {self.target}",
            subtitle=f"score {self.score:+.3f}",
            notes=self.footer(),
            boxes=self.boxes(picture.shape[:2]),
        )

    def footer(self) -> list[str]:
        """The lines under a figure."""
        lines = []
        if self.layer:
            lines.append(f"layer {self.layer}: {self.layer_reason}")
        if self.parity:
            lines.append(f"parity: {self.parity.sentence()}")
        spec = self.prepared.preprocessing
        if spec is not None:
            lines.append(f"preprocessing: {spec.source}")
        return lines + list(self.notes)

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        from onnxvis.render import png_bytes

        return png_bytes(self.figure())

    # --- saving ----------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Everything but the map itself, as plain data; what :meth:`save` writes as ``manifest.json``."""
        picture, spec = self.prepared.picture, self.prepared.preprocessing
        return {
            "manifest_version": MANIFEST_VERSION,
            "method": self.method,
            "parameters": _plain(self.parameters),
            "target": {"name": self.target, "spec": self.target_spec, "index": self.target_index, "score": self.score},
            "map": {
                "shape": list(self.attribution.shape),
                "units": self.units,
                "signed": self.signed,
                "reduction": self.reduction,
                "sha256": hashlib.sha256(np.ascontiguousarray(self.attribution).tobytes()).hexdigest(),
                "scale": self.scale().to_dict(),
            },
            "layer": {"tensor": self.layer, "reason": self.layer_reason} if self.layer else None,
            "explained": self.logits_note,
            "parity": self.parity.to_dict() if self.parity else None,
            "prediction": self.prediction.to_dict(),
            "picture": {
                "name": picture.name,
                "path": picture.path,
                "size": list(picture.size),
                "sha256": picture.sha256,
            }
            if picture
            else None,
            "preprocessing": spec.to_dict() if spec else None,
            "geometry": self.prepared.geometry.to_dict(),
            "notes": [*self.notes, *self.prepared.notes],
            "caution": self.caution,
            "seconds": round(self.seconds, 4),
            "provenance": _plain(self.provenance),
        }

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write ``overlay.png``, ``figure.png``, ``attribution.npy`` and ``manifest.json`` into a folder.

        Each file appears whole or not at all, the manifest last: a folder with a manifest is complete. A
        folder that holds another explanation is not overwritten unless asked; the same one may be saved again.

        Returns:
            The folder.

        Raises:
            ResultExistsError: it holds another explanation.
            OutputError: it cannot be written.
        """
        from onnxvis.render import png_bytes

        out = Path(folder)
        manifest = self.manifest()
        if not overwrite:
            _refuse_other(out / "manifest.json", manifest)
        array = io.BytesIO()
        np.save(array, self.attribution)
        files = {
            "attribution.npy": array.getvalue(),
            "overlay.png": png_bytes(self.overlay()),
            "figure.png": png_bytes(self.figure()),
        }
        manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        files["manifest.json"] = text.encode("utf-8", "backslashreplace")  # a JSON escape: a file name may be no text
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_together(out, files)
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error.strerror or error}.") from error
        return out


def _reached(heat: np.ndarray) -> np.ndarray:
    """The values that are not exactly 0, where there are any."""
    values = heat[heat != 0]
    return values if values.size else heat


def _refuse_other(path: Path, manifest: Mapping[str, Any]) -> None:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError:
        old = None
    try:
        theirs = _identity(old)
    except (TypeError, KeyError, AttributeError):
        raise OutputError(
            f"{path} is not a manifest of onnxvis, so the folder belongs to something else. Choose another folder, or "
            "pass overwrite=True."
        ) from None
    if theirs != _identity(manifest):
        raise ResultExistsError(
            f"{path.parent} already holds another explanation ({theirs['method']} of {theirs['target']!r}). Choose "
            "another folder, or pass overwrite=True."
        )


def _identity(manifest: Any) -> dict[str, Any]:
    """What makes an explanation this one; the same picture under another path is the same picture."""
    return {
        "method": manifest["method"],
        "parameters": manifest["parameters"],
        "target": manifest["target"]["name"],
        "layer": manifest["layer"]["tensor"] if manifest["layer"] else None,
        "picture": manifest["picture"]["sha256"] if manifest["picture"] else None,
        "model": manifest["provenance"]["model"]["sha256"],
    }


def _plain(value: Any) -> Any:
    """Plain JSON data: arrays and numpy numbers become lists and numbers, non-finite floats their names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
