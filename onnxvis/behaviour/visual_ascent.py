"""Gradient ascent in the space of pictures: one climb a restart, all restarts of a target in one batch.

Every random number is a function of (seed, restart, step), so a climb can stop anywhere and go on, and a restart comes
out the same (to rounding) whatever else is in the batch.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.visual_parametrization import Parametrization, parametrization, tv_gradient
from onnxvis.behaviour.visual_recipe import Recipe
from onnxvis.behaviour.visual_space import PictureSpace
from onnxvis.behaviour.visual_state import Climb, load_climb, save_climb
from onnxvis.behaviour.visual_target import VisualTarget
from onnxvis.behaviour.visual_transform import View, crop_view, random_view
from onnxvis.errors import ModelError
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Ascent", "climb", "stage_steps"]

Array = NDArray[np.float32]
_STAGES = 6
_SAVE_SECONDS = 15.0
_FIRST_MOMENT, _SECOND_MOMENT, _TINY = 0.9, 0.99, 1e-12
_LAST_RATE = 0.1
_ATTEMPTS = 24


def stage_steps(steps: int) -> list[int]:
    """After how many steps a stage is kept: doubling towards the last one, which is among them."""
    return sorted({max(1, round(steps / 2**k)) for k in range(_STAGES)})


@dataclass(frozen=True, eq=False)
class Ascent:
    """What does not change during a climb."""

    model: Model
    space: PictureSpace
    target: VisualTarget
    recipe: Recipe
    seed: int
    restarts: int

    @property
    def jitter(self) -> float:
        """The largest shift of a view, in pixels."""
        return self.recipe.jitter * min(self.space.grid)

    @property
    def margin(self) -> int:
        """Pixels around the picture that views may reach into; thrown away at the end."""
        top, left, bottom, right = self.space.window
        room = min(top, left, self.space.size[0] - bottom, self.space.size[1] - right)
        return max(0, int(np.ceil(self.jitter)) - room)

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of what is climbed on."""
        height, width = self.space.size
        return height + 2 * self.margin, width + 2 * self.margin

    @property
    def window(self) -> tuple[int, int, int, int]:
        """What the model sees, on the canvas."""
        top, left, bottom, right = (edge + self.margin for edge in self.space.window)
        return top, left, bottom, right

    def cut(self, canvas: Array) -> Array:
        """The pictures on their canvases."""
        m, (height, width) = self.margin, self.space.size
        return canvas[..., m : m + height, m : m + width]


def climb(
    model: Model,
    space: PictureSpace,
    target: VisualTarget,
    recipe: Recipe,
    *,
    seed: int = 0,
    restarts: int = 1,
    batch_size: int = 8,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    key: str = "",
) -> tuple[Climb, Array]:
    """Climb from noise towards a target.

    Args:
        model: from :func:`onnxvis.load`.
        space: its pictures.
        target: the number that is to grow.
        recipe: how.
        seed: of everything random.
        restarts: climbs from different noise, in one batch.
        batch_size: views at once.
        progress: called with the target's name and the step.
        checkpoint: file of the state, from which a climb of the same ``key`` goes on; removed at the end.
        key: what the state belongs to.

    Returns:
        The state and the pictures ``(R, C, H, W)`` in 0..1. An interrupt (Ctrl-C) ends the climb early; what was
        reached is returned, with ``interrupted`` set.

    Raises:
        ModelError: the gradient is not finite.
        OutputError: the checkpoint cannot be written.
    """
    ascent = Ascent(model, space, target, recipe, seed, restarts)
    base = space.start if recipe.parametrization == "pixel" else np.full(space.channels, 0.5, np.float32)
    values = parametrization(recipe, ascent.canvas, base)
    state, damaged = load_climb(checkpoint, key) if checkpoint is not None else (None, ())
    if state is None:
        state = Climb.begin(np.stack([values.start(np.random.default_rng([seed, r])) for r in range(restarts)]))
    saved = time.monotonic()
    try:
        while state.step < recipe.steps:
            progress(target.name, state.step, recipe.steps)
            # One assignment: an interrupt leaves the state before the step or after it.
            state = _advanced(ascent, values, state, base, batch_size)
            if checkpoint is not None and time.monotonic() - saved > _SAVE_SECONDS:
                save_climb(checkpoint, key, state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        state = dataclasses.replace(state, interrupted=True)
        if checkpoint is not None:
            save_climb(checkpoint, key, state)
    if not state.interrupted:
        progress(target.name, recipe.steps, recipe.steps)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    state = dataclasses.replace(state, notes=(*state.notes, *damaged))
    return state, np.ascontiguousarray(ascent.cut(values.picture(state.variables)))


def _advanced(ascent: Ascent, values: Parametrization, state: Climb, base: Array, batch_size: int) -> Climb:
    """The state after one more step, or after a new start of restarts that have met no gradient."""
    pictures = values.picture(state.variables)
    scores, gradient, notes = _score_gradient(ascent, pictures, state.step, batch_size)
    awake = state.awake | np.any(gradient != 0, axis=(1, 2, 3))
    if not awake.all() and state.attempts < _ATTEMPTS:
        return _restarted(ascent, values, state, awake)
    gradient = values.gradient(pictures, _penalized(ascent, pictures, gradient, base))
    step, first, second = _step(ascent, gradient, state)
    variables = _blurred(ascent, values.moved(state.variables, step), state.step + 1)
    done, stages = state.step + 1, state.stages
    if done in stage_steps(ascent.recipe.steps):
        stages = {**stages, done: _rounded(ascent.cut(values.picture(variables)))}
    said = tuple(dict.fromkeys((*state.notes, *notes)))
    traced = np.concatenate([state.scores, scores[:, None]], axis=1)
    return Climb(variables, first, second, awake, traced, stages, done, state.attempts, notes=said)


def _restarted(ascent: Ascent, values: Parametrization, state: Climb, awake: NDArray[np.bool_]) -> Climb:
    """Restarts that have met no gradient begin anew from stronger noise.

    A unit behind a rectifier is 0 on a nearly gray picture, and so is its gradient: there is no way up from there.
    """
    variables, attempts = state.variables.copy(), state.attempts + 1
    for r in np.flatnonzero(~awake):
        rng = np.random.default_rng([ascent.seed, int(r), state.step, attempts])
        variables[r] = values.start(rng, 1.0 + attempts / 2)
    return dataclasses.replace(state, variables=variables, awake=awake, attempts=attempts)


def _rounded(pictures: Array) -> NDArray[np.uint8]:
    return np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


# --- the gradient ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Look:
    """One view with its changes of color: ``seen = 0.5 + (view - 0.5) * factor + shift + noise``."""

    restart: int
    view: View
    factor: Array
    shift: Array
    noise: Array | None

    def see(self, picture: Array) -> Array:
        seen = np.float32(0.5) + (self.view.see(picture) - np.float32(0.5)) * self.factor + self.shift
        return seen if self.noise is None else seen + self.noise

    def back(self, gradient: Array) -> Array:
        return self.view.back(gradient * self.factor)


def _looks(ascent: Ascent, restart: int, step: int) -> list[_Look]:
    recipe, channels = ascent.recipe, ascent.space.channels
    rng = np.random.default_rng([ascent.seed, restart, step])
    fading = 1.0 - step / recipe.steps
    looks = []
    for _ in range(recipe.views):
        zoom = (recipe.zoom_out, recipe.zoom_in)
        still = not (recipe.jitter or recipe.rotate) and zoom == (1.0, 1.0)
        size, window = ascent.canvas, ascent.window
        view = crop_view(size, window) if still else random_view(rng, size, window, ascent.jitter, recipe.rotate, zoom)
        spread = recipe.color_jitter
        factor = np.exp(rng.normal(0, spread, (channels, 1, 1))).astype(np.float32)
        shift = rng.normal(0, spread / 2, (channels, 1, 1)).astype(np.float32)
        noise = None
        if recipe.noise:
            noise = rng.standard_normal((channels, *ascent.space.grid), np.float32) * np.float32(recipe.noise * fading)
        looks.append(_Look(restart, view, factor, shift, noise))
    return looks


def _score_gradient(
    ascent: Ascent, pictures: Array, step: int, batch_size: int
) -> tuple[NDArray[np.float64], Array, tuple[str, ...]]:
    """Scores ``(R,)`` and their gradient ``(R, C, H, W)``, both means over the views.

    A unit that is silent has no gradient; one that stands before a rectifier has. There the step follows that.
    """
    target = ascent.target
    looks = [look for r in range(ascent.restarts) for look in _looks(ascent, r, step)]
    scores, gradient, notes = _along(ascent, pictures, looks, target.tensor, target.cotangent, batch_size)
    silent = ~np.any(gradient != 0, axis=(1, 2, 3))
    if silent.any() and target.before != target.tensor:
        some = [look for look in looks if silent[look.restart]]
        _, other, _ = _along(ascent, pictures, some, target.before, target.before_cotangent, batch_size)
        gradient[silent] = other[silent]
        notes = (*notes, "where the unit was silent, steps followed its value before its rectifier")
    if not np.isfinite(gradient).all():
        raise ModelError(
            f"the gradient of {target.name!r} is not finite after {step} steps. Try a smaller rate, or another seed."
        )
    return scores, gradient, notes


def _along(
    ascent: Ascent, pictures: Array, looks: list[_Look], tensor: str, cotangent: Array, batch_size: int
) -> tuple[NDArray[np.float64], Array, tuple[str, ...]]:
    """The weighted sum of a tensor's values and its gradient, for each restart the mean over its views."""
    scores, gradient = np.zeros(ascent.restarts), np.zeros_like(pictures)
    notes: tuple[str, ...] = ()
    name, share = ascent.model.image_input.name, np.float32(1 / ascent.recipe.views)
    for begin in range(0, len(looks), batch_size):
        some = looks[begin : begin + batch_size]
        x = ascent.space.to_input(np.stack([look.see(pictures[look.restart]) for look in some]))
        cotangents = np.repeat(cotangent[None], len(some), axis=0)
        found = ascent.model.engine.gradients({name: x}, tensor, [cotangents], (name,))
        back = ascent.space.from_gradient(found.grads[0][name])
        values = found.output.reshape(len(some), -1).astype(np.float64) @ cotangent.reshape(-1).astype(np.float64)
        for look, score, one in zip(some, values, back, strict=True):
            scores[look.restart] += score / ascent.recipe.views
            gradient[look.restart] += look.back(one) * share
        notes = found.notes
    return scores, gradient, notes


def _penalized(ascent: Ascent, pictures: Array, gradient: Array, base: Array) -> Array:
    """The gradient brought to a root mean square of 1, less those of the penalties."""
    size = np.sqrt(np.mean(gradient.astype(np.float64) ** 2, axis=(1, 2, 3), keepdims=True)).astype(np.float32)
    found: Array = gradient / np.maximum(size, np.float32(1e-30))
    if ascent.recipe.tv:
        found = found - np.float32(ascent.recipe.tv) * tv_gradient(pictures)
    if ascent.recipe.l2:
        found = found - np.float32(2 * ascent.recipe.l2) * (pictures - base[:, None, None])
    return found


# --- the step ----------------------------------------------------------------------------------


def _step(ascent: Ascent, gradient: Array, state: Climb) -> tuple[Array, Array, Array]:
    """The step, and Adam's moments after it; pixels take the normalized gradient itself."""
    recipe = ascent.recipe
    part = state.step / recipe.steps
    rate = recipe.rate * (1 - (1 - _LAST_RATE) * max(0.0, 2 * part - 1))  # falls over the second half
    if recipe.parametrization == "pixel":
        return np.asarray(rate * gradient, np.float32), state.first, state.second
    first = np.asarray(_FIRST_MOMENT * state.first + (1 - _FIRST_MOMENT) * gradient, np.float32)
    second = np.asarray(_SECOND_MOMENT * state.second + (1 - _SECOND_MOMENT) * gradient**2, np.float32)
    mean = first / (1 - _FIRST_MOMENT ** (state.step + 1))
    spread = np.sqrt(second / (1 - _SECOND_MOMENT ** (state.step + 1)))
    return np.asarray(rate * mean / (spread + _TINY), np.float32), first, second


def _blurred(ascent: Ascent, variables: Array, step: int) -> Array:
    recipe = ascent.recipe
    if recipe.parametrization != "pixel" or not (recipe.blur_every and recipe.blur):
        return variables
    if step % recipe.blur_every or step == recipe.steps:
        return variables
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(variables, (0, 0, recipe.blur, recipe.blur), mode="nearest"), np.float32)
