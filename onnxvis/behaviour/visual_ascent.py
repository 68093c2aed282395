"""Gradient ascent in the space of pictures: one climb a restart, all restarts of a target in one batch.

Every random number is a function of (seed, restart, step), so a climb can stop anywhere and go on, and a restart comes
out the same (to rounding) whatever else is in the batch.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.visual_parametrization import Parametrization, parametrization, tv_gradient
from onnxvis.behaviour.visual_recipe import Recipe
from onnxvis.behaviour.visual_space import PictureSpace
from onnxvis.behaviour.visual_target import VisualTarget
from onnxvis.behaviour.visual_transform import View, crop_view, random_view
from onnxvis.errors import ModelError, OutputError
from onnxvis.explanation import write_atomic
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Climb", "climb", "stage_steps"]

Array = NDArray[np.float32]
_STAGES = 6
_SAVE_SECONDS = 15.0
_FIRST_MOMENT, _SECOND_MOMENT, _TINY = 0.9, 0.99, 1e-12
_LAST_RATE = 0.1
_ATTEMPTS = 24


@dataclass(eq=False)
class Climb:
    """Where an ascent is.

    Attributes:
        step: steps done.
        variables: ``(R, C, H, W)`` what is moved, for each restart.
        first: Adam's running mean of the gradient.
        second: and of its square.
        scores: (R, steps done): what is climbed, on each restart's views before each step, as the gradient's
            backend saw it.
        stages: step -> pictures ``(R, C, H, W)`` uint8 on the way.
        interrupted: whether it was stopped before its last step.
        awake: (R,) whether the restart has met a gradient yet.
        attempts: how often the sleeping ones began anew from stronger noise.
        notes: what the gradient's backend says.
    """

    step: int
    variables: Array
    first: Array
    second: Array
    scores: list[list[float]]
    stages: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    awake: NDArray[np.bool_] | None = None
    attempts: int = 0


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
    def margin(self) -> int:
        """Pixels around the picture that views may reach into; thrown away at the end."""
        top, left, bottom, right = self.space.window
        room = min(top, left, self.space.size[0] - bottom, self.space.size[1] - right)
        return max(0, int(np.ceil(self.recipe.jitter)) - room)

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
        checkpoint: file in which the state is kept, from which an earlier climb of the same ``key`` goes on, and which
            is removed at the end.
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
    state, damaged = _loaded(checkpoint, key)
    if state is None:
        start = np.stack([values.start(np.random.default_rng([seed, r])) for r in range(restarts)])
        state = Climb(0, start, np.zeros_like(start), np.zeros_like(start), [[] for _ in range(restarts)])
    kept, saved = set(stage_steps(recipe.steps)), time.monotonic()
    try:
        while state.step < recipe.steps:
            progress(target.name, state.step, recipe.steps)
            pictures = values.picture(state.variables)
            scores, gradient, notes = _score_gradient(ascent, pictures, state.step, batch_size)
            if _woken(ascent, values, state, gradient):
                continue
            gradient = _penalized(ascent, pictures, gradient, base)
            step, first, second = _step(ascent, values.gradient(pictures, gradient), state)
            moved = _blurred(ascent, values.moved(state.variables, step), state.step + 1)
            # From here on nothing can be interrupted half-way: plain assignments.
            state.variables, state.first, state.second, state.notes = moved, first, second, (*notes, *damaged)
            for mine, score in zip(state.scores, scores, strict=True):
                mine.append(float(score))
            state.step += 1
            if state.step in kept:
                state.stages[state.step] = _rounded(ascent.cut(values.picture(state.variables)))
            if checkpoint is not None and time.monotonic() - saved > _SAVE_SECONDS:
                _save(checkpoint, key, state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        state.interrupted = True
        if checkpoint is not None:
            _save(checkpoint, key, state)
    progress(target.name, state.step, recipe.steps)
    if checkpoint is not None and not state.interrupted:
        checkpoint.unlink(missing_ok=True)
    return state, np.ascontiguousarray(ascent.cut(values.picture(state.variables)))


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
        view = crop_view(size, window) if still else random_view(rng, size, window, recipe.jitter, recipe.rotate, zoom)
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
    """Scores ``(R,)`` and their gradient ``(R, C, H, W)``, both means over the views."""
    looks = [look for r in range(ascent.restarts) for look in _looks(ascent, r, step)]
    scores, gradient = np.zeros(ascent.restarts), np.zeros_like(pictures)
    notes: tuple[str, ...] = ()
    model, target, name = ascent.model, ascent.target, ascent.model.image_input.name
    for begin in range(0, len(looks), batch_size):
        some = looks[begin : begin + batch_size]
        x = ascent.space.to_input(np.stack([look.see(pictures[look.restart]) for look in some]))
        cotangents = np.repeat(target.climbed_cotangent[None], len(some), axis=0)
        found = model.engine.gradients({name: x}, target.climbed, [cotangents], (name,))
        back = ascent.space.from_gradient(found.grads[0][name])
        for look, score, one in zip(some, target.climbed_value(found.output), back, strict=True):
            scores[look.restart] += score / ascent.recipe.views
            gradient[look.restart] += look.back(one) / np.float32(ascent.recipe.views)
        notes = found.notes
    if not np.isfinite(gradient).all():
        raise ModelError(
            f"the gradient of {target.name!r} is not finite after {step} steps. Try a smaller rate, or another seed."
        )
    return scores, gradient, notes


def _penalized(ascent: Ascent, pictures: Array, gradient: Array, base: Array) -> Array:
    """The gradient brought to a root mean square of 1, less those of the penalties."""
    size = np.sqrt(np.mean(gradient.astype(np.float64) ** 2, axis=(1, 2, 3), keepdims=True)).astype(np.float32)
    found = gradient / np.maximum(size, np.float32(1e-30))
    if ascent.recipe.tv:
        found = found - np.float32(ascent.recipe.tv) * tv_gradient(pictures)
    if ascent.recipe.l2:
        found = found - np.float32(2 * ascent.recipe.l2) * (pictures - base[:, None, None])
    return found


def _woken(ascent: Ascent, values: Parametrization, state: Climb, gradient: Array) -> bool:
    """Let restarts that have not met a gradient begin anew from stronger noise; whether any did.

    A unit behind a rectifier is 0 on a nearly gray picture, and so is its gradient: there is no way up from there.
    """
    moved = np.any(gradient != 0, axis=(1, 2, 3))
    state.awake = moved if state.awake is None else state.awake | moved
    if state.awake.all() or state.attempts >= _ATTEMPTS:
        return False
    state.attempts += 1
    stronger = 1.0 + 0.5 * state.attempts
    for r in np.flatnonzero(~state.awake):
        rng = np.random.default_rng([ascent.seed, int(r), state.step, state.attempts])
        state.variables[r] = values.start(rng, stronger)
    return True


# --- the step ----------------------------------------------------------------------------------


def _step(ascent: Ascent, gradient: Array, state: Climb) -> tuple[Array, Array, Array]:
    """The step, and Adam's moments after it; pixels take the normalized gradient itself."""
    recipe = ascent.recipe
    part = state.step / recipe.steps
    rate = recipe.rate * (1 - (1 - _LAST_RATE) * max(0.0, 2 * part - 1))  # falls over the second half
    if recipe.parametrization == "pixel":
        return np.float32(rate) * gradient, state.first, state.second
    first = np.float32(_FIRST_MOMENT) * state.first + np.float32(1 - _FIRST_MOMENT) * gradient
    second = np.float32(_SECOND_MOMENT) * state.second + np.float32(1 - _SECOND_MOMENT) * gradient**2
    mean = first / np.float32(1 - _FIRST_MOMENT ** (state.step + 1))
    spread = np.sqrt(second / np.float32(1 - _SECOND_MOMENT ** (state.step + 1)))
    return np.float32(rate) * mean / (spread + np.float32(_TINY)), first, second


def _blurred(ascent: Ascent, variables: Array, step: int) -> Array:
    recipe = ascent.recipe
    if recipe.parametrization != "pixel" or not (recipe.blur_every and recipe.blur):
        return variables
    if step % recipe.blur_every or step == recipe.steps:
        return variables
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(variables, (0, 0, recipe.blur, recipe.blur), mode="nearest"), np.float32)


# --- the checkpoint ----------------------------------------------------------------------------


def _save(path: Path, key: str, state: Climb) -> None:
    stages = {f"stage_{step}": pictures for step, pictures in state.stages.items()}
    data = io.BytesIO()
    np.savez(
        data, key=np.array(key), step=np.array(state.step), variables=state.variables, first=state.first,
        second=state.second, scores=np.array(state.scores), notes=np.array(state.notes, dtype=str),
        awake=np.ones(len(state.variables), bool) if state.awake is None else state.awake,
        attempts=np.array(state.attempts), **stages,
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.getvalue())
    except OSError as error:
        raise OutputError(f"cannot keep the state in {path}: {error.strerror or error}.") from error


def _loaded(path: Path | None, key: str) -> tuple[Climb | None, tuple[str, ...]]:
    """The state of an earlier climb of the same key; a damaged file is set aside, with a note."""
    if path is None or not path.is_file():
        return None, ()
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None, ()
            stages = {int(n.removeprefix("stage_")): data[n] for n in data.files if n.startswith("stage_")}
            scores: Sequence[list[float]] = data["scores"].tolist()
            notes = tuple(str(note) for note in data["notes"])
            arrays = (data["variables"], data["first"], data["second"])
            begun = (data["awake"], int(data["attempts"]))
            return Climb(int(data["step"]), *arrays, list(scores), stages, False, notes, *begun), ()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        return None, (f"the state of an earlier climb could not be read and was set aside as {aside.name}",)
