"""Feature maps: what every unit of a layer answers, at every place of a picture.

The values are onnxruntime's, of the deployed file (Zeiler and Fergus 2014 and Yosinski et al. 2015 look at networks
this way). Maps are raw; drawing puts all of them on one scale, so that a strong unit looks strong.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import LayerError, OutputError, UsageError
from onnxvis.files import write_atomic
from onnxvis.names import slug
from onnxvis.prediction import same_shape
from onnxvis.preprocessing import Prepared
from onnxvis.progress import Progress, silent
from onnxvis.provenance import provenance
from onnxvis.render import Scale

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.graph.receptive import TensorField
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = ["RANKINGS", "Activations", "activations", "placed"]

RANKINGS = ("max", "mean")
_LISTED = 64

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Activations:
    """The activations of one layer on some pictures.

    Attributes:
        values: for each picture ``(units, rows, columns)`` float32, raw; 1 x 1 for a layer without places.
        layer: its tensor, with ``reason``.
        reason: why this one.
        prepared: the pictures, and the geometry between them and the model's input.
        names: of the pictures.
        seen: receptive field of the layer's units, or ``None``.
        notes: one sentence each.
        provenance: model and versions, as plain data.
    """

    values: tuple[Array, ...]
    layer: str
    reason: str
    prepared: tuple[Prepared, ...]
    names: tuple[str, ...]
    seen: TensorField | None
    notes: tuple[str, ...]
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values[0].shape))
        return f"<Activations of {self.layer!r}, {shape}, on {len(self.values)} pictures>"

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return len(self.values[0])

    @property
    def signed(self) -> bool:
        """Whether any value is negative."""
        return any(bool((v < 0).any()) for v in self.values)

    def strength(self, rank: str = "max") -> Array:
        """``(pictures, units)``: each unit's largest absolute value, or the mean of the absolute values.

        Raises:
            UsageError: another word.
        """
        if rank not in RANKINGS:
            raise UsageError(f"units are ranked by {' or '.join(RANKINGS)}, not by {rank!r}.")
        flat = [np.abs(v).reshape(self.units, -1) for v in self.values]
        found = [f.max(axis=1) if rank == "max" else f.mean(axis=1) for f in flat]
        return np.stack(found).astype(np.float32)

    def strongest(self, top: int, rank: str = "max") -> list[int]:
        """The units that are strongest on any of the pictures, strongest first."""
        if top < 1:
            raise UsageError(f"at least one unit is shown, not {top}.")
        order = np.argsort(-self.strength(rank).max(axis=0), kind="stable")
        return [int(u) for u in order[:top]]

    def scale(self, units: Sequence[int] | None = None) -> Scale:
        """One color scale for these units on all pictures, zero-centered where any value is negative.

        Of several units a few values can be so large that all others would look like 0, so their scale is clipped
        where 0.2 % of the values lie outside; its note says so.
        """
        for unit in units or ():
            self._known(unit)
        chosen = [v if units is None else v[list(units)] for v in self.values]
        percentile = None if units is not None and len(units) == 1 else 99.8
        return Scale.for_maps(chosen, signed=self.signed, units="activation", percentile=percentile)

    def on_picture(self, unit: int, picture: int = 0) -> Array:
        """One unit's map in the pixels of the original picture, ``(H, W)``; NaN where the model saw nothing.

        Raises:
            LayerError: no such unit, or the layer has no places.
        """
        one, prepared = self._checked(unit, picture), self.prepared[picture]
        width, height = prepared.geometry.input_size
        on: Array = prepared.geometry.map_to_picture(placed(one, (height, width), self.seen))
        return on

    def overlay(self, unit: int, picture: int = 0, scale: Scale | None = None) -> Image.Image:
        """One unit over the original picture, as a finished figure with its color bar.

        Raises:
            LayerError: no such unit, or the layer has no places.
        """
        from onnxvis.render import figure

        source = self.prepared[picture]
        rgb = source.picture.rgb() if source.picture is not None else source.display()
        values = self.on_picture(unit, picture)
        return figure(
            rgb,
            values,
            scale or self.scale([unit]),
            title=f"Unit {unit} of {self.layer}",
            subtitle=f"largest {float(np.abs(self.values[picture][unit]).max()):.3g} on {self.names[picture]}",
            notes=[self._placing(), *self.notes],
        )

    def sheet(self, top: int | None = None, rank: str = "max", units: Sequence[int] | None = None) -> Image.Image:
        """Maps on one scale; see :func:`onnxvis.behaviour.visual_maps.activation_sheet`."""
        from onnxvis.behaviour.visual_maps import activation_sheet

        return activation_sheet(self, top, rank, units)

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        from onnxvis.render import png_bytes

        return png_bytes(self.sheet())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, as plain data; of each picture its 64 strongest units."""
        pictures = []
        peaks, means = self.strength("max"), self.strength("mean")
        for k, (name, prepared, values) in enumerate(zip(self.names, self.prepared, self.values, strict=True)):
            order = np.argsort(-peaks[k], kind="stable")[:_LISTED]
            picture = prepared.picture
            pictures.append(
                {
                    "name": name,
                    "sha256": picture.sha256 if picture else None,
                    "shape": list(values.shape),
                    "values_sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
                    "geometry": prepared.geometry.to_dict(),
                    "strongest": [
                        {"unit": int(u), "max_abs": float(peaks[k, u]), "mean_abs": float(means[k, u])} for u in order
                    ],
                }
            )
        return {
            "layer": self.layer,
            "reason": self.reason,
            "units": self.units,
            "signed": self.signed,
            "pictures": pictures,
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        top: int | None = None,
        rank: str = "max",
        units: Sequence[int] | None = None,
    ) -> Path:
        """Write ``activations.png``, the raw maps of each picture as ``NAME.npy``, and ``activations.json``.

        For each of ``units`` an overlay on each picture is added: ``NAME-unit-U.png``.

        Raises:
            OutputError: it cannot be written.
        """
        from onnxvis.render import png_bytes

        out, files = Path(folder), {"activations.png": png_bytes(self.sheet(top, rank, units))}
        for k, name in enumerate(self._file_names()):
            array = io.BytesIO()
            np.save(array, self.values[k])
            files[f"{name}.npy"] = array.getvalue()
            for unit in units or ():
                files[f"{name}-unit-{unit}.png"] = png_bytes(self.overlay(unit, k, self.scale([unit])))
        data = self.to_dict() | {"arrays": [f"{name}.npy" for name in self._file_names()]}
        files["activations.json"] = json.dumps(data, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            out.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                write_atomic(out / file, content)
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error.strerror or error}.") from error
        return out

    def _file_names(self) -> list[str]:
        """Safe and different ones, also for pictures of the same name."""
        plain = [slug(Path(name).stem or "picture") for name in self.names]
        return [n if plain.count(n) == 1 else f"{n}-{k + 1}" for k, n in enumerate(plain)]

    def _known(self, unit: int) -> None:
        if not 0 <= unit < self.units:
            raise LayerError(f"layer {self.layer!r} has no unit {unit}: it has {self.units}, 0 to {self.units - 1}.")

    def _checked(self, unit: int, picture: int) -> Array:
        self._known(unit)
        if self.values[picture][unit].size == 1:
            raise LayerError(f"layer {self.layer!r} has no places, so a unit of it cannot be laid over a picture.")
        one: Array = self.values[picture][unit]
        return one

    def _placing(self) -> str:
        rows, columns = self.values[0].shape[1:]
        how = "its values at the centers of their receptive fields" if _centered(self.seen) else "stretched"
        return f"Map of {rows} x {columns} places, {how}, bilinear between them."


def activations(
    model: Model,
    images: PictureSource | Sequence[PictureSource],
    layer: str | None = None,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Activations:
    """The activations of a layer on one picture or several.

    Args:
        model: from :func:`onnxvis.load`.
        images: a path, bytes, a Pillow image, an array, or a list of those.
        layer: a tensor or node name; ``None`` takes the last feature map before the head.
        batch_size: pictures at once.
        progress: called with (stage, done, total).

    Raises:
        LayerError: there is no such layer, or it is no map of units.
        PictureError: a picture cannot be read.
    """
    given: Sequence[Any] = list(images) if isinstance(images, list | tuple) else [images]
    if not given or batch_size < 1:
        raise UsageError("give at least one picture and a batch size of at least 1.")
    tensor, reason = _layer(model, layer)
    prepared, report = [], progress or silent
    for k, image in enumerate(given):
        report("pictures", k, len(given))
        prepared.append(model.prepare(image))
    found: dict[int, Array] = {}
    for group in same_shape([p.tensor for p in prepared]):
        for start in range(0, len(group), batch_size):
            rows = group[start : start + batch_size]
            report("layer", len(found), len(given))
            x = np.concatenate([prepared[i].tensor for i in rows])
            maps = _units_first(model, tensor, model.engine.forward(x, (tensor,), batch_size)[tensor])
            found.update(zip(rows, maps, strict=True))
    names = [p.picture.name if p.picture else f"picture {k}" for k, p in enumerate(prepared)]
    notes = []
    if not model.in_file(tensor):
        notes.append(f"{tensor!r} exists only in the rewritten graph, and is computed there")
    if len({v.shape[0] for v in found.values()}) > 1:
        raise LayerError(f"layer {tensor!r} has another number of units on each of these pictures.")
    return Activations(
        tuple(found[k] for k in range(len(prepared))),
        tensor,
        reason,
        tuple(prepared),
        tuple(names),
        model.fields.get(tensor),
        tuple(notes),
        provenance(model),
    )


def placed(values: Array, grid: tuple[int, int], seen: TensorField | None) -> Array:
    """A unit's map ``(h, w)`` in the input grid ``(H, W)``, bilinear.

    Each value stands at the center of its receptive field, ``start + (size - 1) / 2 + place * jump``; beyond the
    outermost centers their values go on. Where the field is not exactly known the map is stretched over the grid.
    """
    if not _centered(seen):
        from onnxvis.kernels.upsample import upsample_bilinear

        stretched: Array = upsample_bilinear(values, grid)
        return stretched
    assert seen is not None
    rows = _weights(seen.rows, values.shape[0], grid[0])
    columns = _weights(seen.cols, values.shape[1], grid[1])
    return np.asarray(rows @ values.astype(np.float64) @ columns.T, np.float32)


def _centered(seen: TensorField | None) -> bool:
    return seen is not None and seen.exact and all(f is not None and f.jump > 0 for f in (seen.rows, seen.cols))


def _weights(axis: Any, places: int, pixels: int) -> NDArray[np.float64]:
    """``(pixels, places)`` of linear interpolation between the centers along one axis."""
    first = float(axis.start) + (float(axis.size) - 1) / 2
    at = np.clip((np.arange(pixels) - first) / float(axis.jump), 0, places - 1)
    low = np.minimum(at.astype(int), max(places - 2, 0))
    matrix = np.zeros((pixels, places))
    rows = np.arange(pixels)
    matrix[rows, low] = 1 - (at - low)
    matrix[rows, np.minimum(low + 1, places - 1)] += at - low
    return matrix


def _layer(model: Model, name: str | None) -> tuple[str, str]:
    if name is not None:
        return model.layer(name), f"asked for as {name!r}"
    head = model.head
    if head.cam_layer is None:
        raise LayerError(
            f"no layer of {model.name!r} could be chosen by structure: {head.reason}. Name one with --layer."
        )
    return head.cam_layer, f"chosen by structure: {head.reason}"


def _units_first(model: Model, tensor: str, values: np.ndarray) -> list[Array]:
    """``(N, ...)`` to N times ``(units, rows, columns)``."""
    seen = model.fields.get(tensor)
    axes = seen.spatial_axes if seen is not None else None
    if axes is None and values.ndim == 4:
        axes = (2, 3) if model.layout == "NCHW" else (1, 2)
    if axes is None and values.ndim != 2:
        raise LayerError(
            f"layer {tensor!r} of shape {values.shape[1:]} for one picture is no map of units. Choose another one "
            "with --layer (`onnxvis inspect` lists them)."
        )
    moved = values[:, :, None, None] if axes is None else np.moveaxis(values, axes, (-2, -1))
    first = moved.reshape(len(moved), -1, *moved.shape[-2:])
    return [np.ascontiguousarray(one, np.float32) for one in first]
