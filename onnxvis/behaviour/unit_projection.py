"""What in each patch excites the unit: its activation at exactly that place, passed back to the picture.

Three ways back, which differ in what a rectifier does to the signal (``runtime.gradients``):

    guided-backprop     R <- R * [x > 0] * [R > 0]    started with 1    (Springenberg et al. 2014, section 3.4)
    deconvnet           R <- R * [R > 0]              started with 1
    zfnet-deconvnet     R <- R * [R > 0]              started with the unit's activation (Zeiler & Fergus 2014)

A unit's own rectifier is not passed: the signal starts below it, so that a place where it is saturated (ReLU6 at its
upper bound, where nothing would pass) is projected like any other. A place where it is not active gives nothing.

The converted model that passes the signal back is held against the store: at every place it must find the activation
that the deployed graph had there, and its ordinary gradient at the layer is compared once with finite differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.patches import Patch
from onnxvis.behaviour.rectifiers import below_rectifier
from onnxvis.errors import LayerError, ParityError, UsageError, did_you_mean
from onnxvis.methods.layout import as_float, channels_first

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["PROJECTIONS", "UnitProjector", "drawn_projection"]

PROJECTIONS = {"guided-backprop": "guided", "deconvnet": "deconvnet", "zfnet-deconvnet": "deconvnet"}
"""Name of a projection -> what its rectifiers do."""

_GRAY = 127.5
_CLIP = 99.5
_SINGLE_PLACES = 5
"""In 8 bits a step that falls the other way is carried from layer to layer: single places differ more than logits."""
_BELOW = "projections start below the unit's own rectifier, which they do not pass"


@dataclass(frozen=True)
class _Axes:
    channel: int
    rows: int | None
    cols: int | None

    def index(self, unit: int, row: int, col: int, rank: int) -> tuple[int, ...]:
        """Where the unit's place stands in one image's activation, without batch axis."""
        place = {self.channel: unit, self.rows: row, self.cols: col}
        return tuple(place.get(axis, 0) for axis in range(1, rank))


class UnitProjector:
    """Projects units of one layer back to pictures.

    Args:
        model: the model that the store was made with.
        layer: tensor of the layer.
        kind: one of :data:`PROJECTIONS`.
        batch_size: pictures at once.
        allow_unverified: keep projections whose parity failed; :attr:`unverified` says so.

    Attributes:
        notes: what is to be said about the projections, filled as they are made.
        tolerance: the largest that is allowed.
        worst: largest difference from a stored activation so far, as a part of the activation.
        unverified: some projection failed its parity check and was kept.

    Raises:
        UsageError: there is no such projection.
        LayerError: the model has no such layer.
        ConversionError: the model cannot be differentiated.
    """

    def __init__(
        self, model: Model, layer: str, kind: str, batch_size: int = 8, allow_unverified: bool = False
    ) -> None:
        if kind not in PROJECTIONS:
            raise UsageError(
                f"there is no projection {kind!r}; they are {', '.join(PROJECTIONS)}.{did_you_mean(kind, PROJECTIONS)}"
            )
        self.model, self.layer, self.kind = model, model.layer(layer), kind
        self.batch_size = max(1, batch_size)
        self._axes = _axes(model, self.layer)
        self._start, self._bounds = below_rectifier(model, self.layer)
        self._allow = allow_unverified
        rounded = model.engine.precision == "int8"
        self.tolerance = model.engine.output_tolerance * (_SINGLE_PLACES if rounded else 1)
        self._gradient_checked = False
        self.notes: tuple[str, ...] = ()
        self.worst = 0.0
        self.unverified = False
        model.engine.backend()

    def __call__(self, unit: int, patches: Sequence[Patch], prepared: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """The projections of one unit at its places.

        Args:
            unit: which one.
            patches: its places.
            prepared: the model's input of each patch's picture.

        Returns:
            For each patch ``(C, H, W) float32`` in the model's input grid.

        Raises:
            ParityError: the converted model does not agree with what the deployed graph answered.
            UsageError: a picture was prepared at another size than the model's usual one.
        """
        results: list[NDArray[np.float32]] = []
        for start in range(0, len(patches), self.batch_size):
            rows = slice(start, start + self.batch_size)
            results += self._batch(unit, patches[rows], prepared[rows])
        return results

    def _batch(self, unit: int, patches: Sequence[Patch], prepared: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        engine, name = self.model.engine, self.model.image_input.name
        shape = self.model.shapes[self.layer]
        usual = self.model.one_image_shape()
        for patch, one in zip(patches, prepared, strict=True):
            if one.tensor.shape != usual:
                raise UsageError(
                    f"{patch.name} makes an input of {one.tensor.shape}, and projections are made at the model's usual "
                    f"{usual}: index with one size (--size), or leave projections out (--projection none)."
                )
        x = np.concatenate([p.tensor for p in prepared])
        cotangent = np.zeros((len(x), *shape[1:]))
        places = [self._axes.index(unit, p.row, p.col, len(shape)) for p in patches]
        for i, (place, patch) in enumerate(zip(places, patches, strict=True)):
            start = max(patch.value, 0.0) if self.kind == "zfnet-deconvnet" else 1.0
            cotangent[(i, *place)] = start if patch.value > self._bounds[0] else 0.0
        found = engine.gradients({name: as_float(x)}, self._start, [cotangent], (name,), PROJECTIONS[self.kind])
        self.notes = found.notes if self._start == self.layer else (*found.notes, _BELOW)
        answers = np.clip(found.output, *self._bounds)
        for i, (place, patch) in enumerate(zip(places, patches, strict=True)):
            self._compare(unit, patch, float(answers[(i, *place)]), float(np.abs(answers[i]).max()))
        if not self._gradient_checked:
            self._gradient_checked = True
            self._check_gradient(x[:1], prepared[0])
        grads = found.grads[0][name]
        return [
            np.ascontiguousarray(channels_first(grads[i], self.model.layout), dtype=np.float32) for i in range(len(x))
        ]

    def _compare(self, unit: int, patch: Patch, converted: float, largest: float) -> None:
        error = abs(converted - patch.value) / max(largest, abs(patch.value), 1e-30)
        self.worst = max(self.worst, error)
        if error > self.tolerance:
            self._failed(
                f"unit {unit} of {self.layer!r} at row {patch.row}, column {patch.col} of {patch.name} is "
                f"{converted:.6g} in the converted model and {patch.value:.6g} in the store, more than the "
                f"{self.tolerance:g} of the picture's largest activation that is allowed: is it the model and the "
                "preprocessing that the store was made with?"
            )

    def _check_gradient(self, x: NDArray[np.generic], prepared: Prepared) -> None:
        """The ordinary gradient of the layer against finite differences of the deployed graph, once."""
        engine, name = self.model.engine, self.model.image_input.name
        deployed = engine.forward(x, (self.layer,))[self.layer]
        if x.dtype.kind != "f":
            return
        weights = deployed[0].astype(np.float64) / max(float(np.abs(deployed.astype(np.float64)).sum()), 1e-30)
        on = prepared.picture.name if prepared.picture else "image"
        # Outputs are held against the store place by place; this record is about the gradient alone.
        parity = engine.parity(
            deployed, deployed, lambda: engine.difference_check({name: x}, name, self.layer, weights, on),
            (self.layer, name, "patches"),
        )  # fmt: skip
        if not parity.passed:
            self._failed(parity.sentence())

    def _failed(self, message: str) -> None:
        if not self._allow:
            raise ParityError(f"{message} --allow-unverified keeps such projections, marked.")
        self.unverified = True


def _axes(model: Model, layer: str) -> _Axes:
    field, shape = model.fields.get(layer), model.shapes.get(layer, ())
    if len(shape) == 2:
        return _Axes(1, None, None)
    if field is None or field.spatial_axes is None or field.channel_axis(len(shape)) is None:
        why = field.reason if field is not None else "it does not depend on the picture"
        raise LayerError(f"units of {layer!r} cannot be projected: {why}")
    return _Axes(field.channel_axis(len(shape)) or 1, *field.spatial_axes)


def drawn_projection(
    values: NDArray[np.float32], patch: Patch, channel_order: str = "rgb"
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A projection as a picture of its patch: gray is zero.

    Full color has the 99.5th percentile of those absolute values in the patch that are not zero.

    Args:
        values: ``(C, H, W)``, the input grid.
        patch: cuts what it shows.
        channel_order: of the model's input; "bgr" is turned round.

    Returns:
        ``(h, w, 3) uint8`` and ``(h, w) bool``, as :attr:`Patch.pixels` and :attr:`Patch.inside`. With other than
        three channels the channels' mean is drawn in gray.
    """
    from onnxvis.kernels.patches import cut_patches

    x0, y0, x1, y1 = patch.shown
    cut, _ = cut_patches(values.transpose(1, 2, 0), np.array([[y0, y1, x0, x1]]))
    part = cut[0].astype(np.float64)
    part = part if part.shape[2] == 3 else np.repeat(part.mean(axis=2, keepdims=True), 3, axis=2)
    part = part[..., ::-1] if channel_order == "bgr" else part
    sizes = np.abs(part[patch.inside])
    sizes = sizes[sizes > 0]
    largest = float(np.percentile(sizes, _CLIP)) if sizes.size else 1.0
    drawn = _GRAY + _GRAY * part / largest
    return np.rint(np.clip(drawn, 0, 255)).astype(np.uint8), patch.inside
