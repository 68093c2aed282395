"""Class visualization: the picture that a class, a unit or a neuron of the deployed file wants to see.

Gradient ascent on a score in the space of pictures (Erhan et al. 2009; Simonyan et al., "Deep Inside Convolutional
Networks", 2013). The gradient is that of the canonical graph; what counts in the end is measured on the deployed file:
the picture is rounded to 8 bits, goes through the model's own preprocessing like any photo, and onnxruntime's score and
prediction stand in the result.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.visual_ascent import climb
from onnxvis.behaviour.visual_recipe import Recipe
from onnxvis.behaviour.visual_recipe import recipe as named_recipe
from onnxvis.behaviour.visual_space import PictureSpace, picture_space
from onnxvis.behaviour.visual_state import Climb
from onnxvis.behaviour.visual_target import VisualTarget, visual_target
from onnxvis.errors import OutputError, UsageError
from onnxvis.files import write_atomic
from onnxvis.methods.layout import as_float
from onnxvis.names import slug
from onnxvis.prediction import Prediction, logits_of, predictions
from onnxvis.progress import Progress, silent
from onnxvis.provenance import provenance
from onnxvis.runtime.parity import GRADIENT_TOLERANCE, GradientCheck, Parity

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.model import Model

__all__ = ["MANIFEST_VERSION", "Restart", "Stage", "Visualization", "visualize", "visualize_each"]

MANIFEST_VERSION = 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Stage:
    """The picture on the way: after ``step`` steps, ``(H, W, C)`` uint8, with the deployed file's score of it."""

    step: int
    picture: Pixels
    score: float


@dataclass(frozen=True, eq=False)
class Restart:
    """One climb.

    Attributes:
        number: which restart, from 0.
        picture: where it ended, ``(H, W, C)`` uint8, C = 1 or 3 (red, green, blue).
        score: of the deployed file on that picture.
        prediction: what the deployed file answers on it.
        stages: the way, the last one being the end.
        trace: the score of this climb's views before each step, as the gradient's backend saw it.
    """

    number: int
    picture: Pixels
    score: float
    prediction: Prediction
    stages: tuple[Stage, ...]
    trace: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Visualization:
    """What a class, a unit or a neuron wants to see.

    Attributes:
        target: for people; ``target_spec`` as it was asked for.
        target_spec: see above.
        kind: "class", "unit" or "neuron".
        tensor: whose values are the score, with ``reason``.
        reason: see above.
        restarts: the climbs, in order of their number.
        start_score: of the deployed file on plain mid gray.
        recipe: how it was climbed.
        seed: of everything random.
        parity: agreement of the gradient's backend with the deployed file, at the best picture.
        interrupted: whether it was stopped before its last step; the pictures are those reached.
        steps_done: of ``recipe.steps``.
        notes: every choice and fall-back, one sentence each.
        seconds: time of the whole; of an interrupted climb that went on, since then.
        key: fingerprint of model, target, recipe, seed and preprocessing: equal keys give equal pictures.
        provenance: model, versions and platform, as plain data.
    """

    target: str
    target_spec: str
    kind: str
    tensor: str
    reason: str
    restarts: tuple[Restart, ...]
    start_score: float
    recipe: Recipe
    seed: int
    parity: Parity
    interrupted: bool
    steps_done: int
    notes: tuple[str, ...]
    seconds: float
    key: str
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        count = f", best of {len(self.restarts)}" if len(self.restarts) > 1 else ""
        return f"<Visualization of {self.target!r}: score {self.score:+.3f}{count}>"

    @property
    def best(self) -> Restart:
        """The climb whose picture the deployed file scores highest."""
        return max(self.restarts, key=lambda r: r.score)

    @property
    def score(self) -> float:
        """Of the best picture, by the deployed file."""
        return self.best.score

    def picture(self) -> Image.Image:
        """The best picture, RGB or gray; the first three channels of a model that takes more."""
        return _image(self.best.picture)

    def sheet(self) -> Image.Image:
        """Every restart, the stages of the best one, and what is to be said."""
        from onnxvis.behaviour.visual_sheet import visualization_sheet

        return visualization_sheet(self)

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        from onnxvis.render import png_bytes

        return png_bytes(self.sheet())

    def manifest(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data."""
        return {
            "manifest_version": MANIFEST_VERSION,
            "key": self.key,
            "method": "class visualization",
            "target": {
                "name": self.target,
                "spec": self.target_spec,
                "kind": self.kind,
                "tensor": self.tensor,
                "reason": self.reason,
            },
            "score": self.score,
            "score_of_mid_gray": self.start_score,
            "best_restart": self.best.number,
            "restarts": [_restart(r) for r in self.restarts],
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "steps_done": self.steps_done,
            "interrupted": self.interrupted,
            "parity": self.parity.to_dict(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``picture.png``, one ``restart-K.png`` for each of several, ``sheet.png`` and ``manifest.json``.

        A picture of other than one or three channels is also kept whole, as ``picture.npy`` ``(H, W, C)`` uint8.
        Each file appears whole or not at all, the manifest last: a folder with a manifest is complete.

        Raises:
            OutputError: it cannot be written.
        """
        from onnxvis.render import png_bytes

        out = Path(folder)
        files = {"picture.png": png_bytes(self.picture()), "sheet.png": png_bytes(self.sheet())}
        if len(self.restarts) > 1:
            files |= {f"restart-{r.number}.png": png_bytes(_image(r.picture)) for r in self.restarts}
        if self.best.picture.shape[2] not in (1, 3):
            array = io.BytesIO()
            np.save(array, self.best.picture)
            files["picture.npy"] = array.getvalue()
        manifest = self.manifest() | {"files": {n: hashlib.sha256(data).hexdigest() for n, data in files.items()}}
        files["manifest.json"] = json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "manifest.json").unlink(missing_ok=True)
            for name, data in files.items():
                write_atomic(out / name, data)
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error.strerror or error}.") from error
        return out


def visualize(
    model: Model,
    targets: int | str | Sequence[int | str],
    *,
    recipe: str | Recipe = "legible",
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    allow_unverified: bool = False,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> list[Visualization]:
    """Find pictures that classes, units or neurons of a deployed model want to see.

    Args:
        model: from :func:`onnxvis.load`, with a preprocessing: its range is what a picture may be.
        targets: one or several: a class index or label, "A - B", "label @ row,col", "LAYER:UNIT",
            "LAYER:UNIT@row,col", "LAYER:UNIT@center".
        recipe: "legible", "simonyan" (the first paper's), or a value.
        restarts: climbs from different noise, in one batch.
        seed: of everything random; the same seed gives the same pictures.
        batch_size: views at once.
        allow_unverified: keep a result although the converted model disagrees with the deployed one.
        progress: called with (target, step, steps).
        checkpoint: folder in which a climb's state is kept while it lasts; an interrupted one goes on from there.
        settings: changes of the recipe: see :class:`~onnxvis.behaviour.visual_recipe.Recipe`.

    Returns:
        One result for each target. An interrupt (Ctrl-C) ends the climb: the last result then has ``interrupted``
        set and holds what was reached.

    Raises:
        TargetError: a target that the model does not have; found before the first step.
        PreprocessingError: nobody said how pictures become the input.
        ParityError: the converted model disagrees with the deployed file.
    """
    return list(
        visualize_each(
            model,
            targets,
            recipe=recipe,
            restarts=restarts,
            seed=seed,
            batch_size=batch_size,
            allow_unverified=allow_unverified,
            progress=progress,
            checkpoint=checkpoint,
            **settings,
        )
    )


def visualize_each(
    model: Model,
    targets: int | str | Sequence[int | str],
    *,
    recipe: str | Recipe = "legible",
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    allow_unverified: bool = False,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    skip: Callable[[str, str], bool] | None = None,
    **settings: Any,
) -> Iterator[Visualization]:
    """:func:`visualize`, one result after the other as they are finished; ends after an interrupted one.

    ``skip`` is asked with the name and the key of each target, and leaves out those of which it says so.
    """
    if restarts < 1 or batch_size < 1 or seed < 0:
        raise UsageError("restarts and the batch size are at least 1, and the seed at least 0.")
    chosen = named_recipe(recipe, **settings) if isinstance(recipe, str) else recipe
    if settings and not isinstance(recipe, str):
        raise UsageError("give a recipe, or the name of one with settings, not both.")
    model.engine.backend()
    space = picture_space(model)
    gray = np.full((*space.size, space.channels), 128, np.uint8)
    logits = _deployed(model, [gray], ())[0]
    specs = [targets] if isinstance(targets, int | str) else list(targets)
    resolved = [visual_target(model, spec, logits[0]) for spec in specs]
    for target in resolved:
        began, key = time.perf_counter(), _key(model, target, chosen, seed, restarts)
        if skip is not None and skip(target.name, key):
            continue
        start = _verified_start(model, target, gray, allow_unverified)
        place = Path(checkpoint) / f"{slug(target.name)}.npz" if checkpoint is not None else None
        state, pictures = climb(
            model, space, target, chosen, seed=seed, restarts=restarts, batch_size=batch_size,
            progress=progress or silent, checkpoint=place, key=key,
        )  # fmt: skip
        found = _restarts(model, space, target, state, pictures)
        best = max(found, key=lambda r: r.score)
        parity = _parity(model, target, best.picture)
        if not allow_unverified:
            parity.require()
        yield Visualization(
            target.name, target.spec, target.kind, target.tensor, target.reason, found, start, chosen, seed, parity,
            state.interrupted, state.step, _notes(model, space, state, best, start, chosen, parity),
            time.perf_counter() - began, key, provenance(model),
        )  # fmt: skip
        if state.interrupted:
            return


# --- the deployed file's answers ---------------------------------------------------------------


def _deployed(
    model: Model, pictures: Sequence[Pixels], tensors: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Logits, tensors and inputs of pictures, through the model's own preprocessing.

    In an int8 file, exposing a layer moves the answer by the rounding; the logits come from a pass of their own.
    """
    x = np.concatenate([model.prepare(picture).tensor for picture in pictures])
    logits = logits_of(model, model.engine.forward(x, (model.logits.tensor,)), len(x))
    layers = tuple(t for t in tensors if t != model.logits.tensor)
    return logits, {model.logits.tensor: logits, **(model.engine.forward(x, layers) if layers else {})}, x


def _restarts(
    model: Model, space: PictureSpace, target: VisualTarget, state: Climb, pictures: NDArray[np.float32]
) -> tuple[Restart, ...]:
    results = []
    for r, picture in enumerate(pictures):
        end = space.pixels(picture)
        steps = sorted(step for step in state.stages if step < state.step)
        shown = [np.moveaxis(state.stages[step][r], 0, -1) for step in steps] + [end]
        logits, tensors, _ = _deployed(model, shown, (target.tensor,))
        scores = target.value(tensors[target.tensor])
        stages = tuple(Stage(s, p, float(v)) for s, p, v in zip([*steps, state.step], shown, scores, strict=True))
        answer = predictions(model, logits[-1:], 5)[0]
        results.append(Restart(r, end, float(scores[-1]), answer, stages, tuple(state.scores[r].tolist())))
    return tuple(results)


def _verified_start(model: Model, target: VisualTarget, gray: Pixels, allow_unverified: bool) -> float:
    """The score of mid gray; a converted model that disagrees on it is refused before the climb, not after it."""
    _, tensors, x = _deployed(model, [gray], (target.tensor,))
    values = tensors[target.tensor]
    name = model.image_input.name
    found = model.engine.gradients({name: as_float(x)}, target.tensor, [target.cotangent[None]], (name,))
    parity = model.engine.parity(found.output[0], values[0], None, (target.tensor, name, "start"))
    # Mid gray can make every unit of a layer nearly 0, where a relative error says nothing.
    if not allow_unverified and np.abs(values).max() > 1e-3:
        parity.require()
    return float(target.value(values)[0])


def _parity(model: Model, target: VisualTarget, picture: Pixels) -> Parity:
    """Outputs on the result, and the gradient there against finite differences of the deployed file."""
    _, tensors, x = _deployed(model, [picture], (target.tensor,))
    name = model.image_input.name
    feeds = {name: as_float(x)}
    found = model.engine.gradients(feeds, target.tensor, [target.cotangent[None]], (name,))

    def check() -> GradientCheck | None:
        if x.dtype.kind != "f":
            return None  # whole-number inputs cannot be moved by a small step
        tensor, cotangent, on = target.tensor, target.cotangent, f"the picture of {target.name}"
        if target.before != tensor and model.in_file(target.before):
            # At the kink of its own rectifier a unit has no derivative that a difference could confirm.
            tensor, cotangent, on = target.before, target.before_cotangent, f"{on}, before its rectifier"
        first = model.engine.difference_check({name: x}, name, tensor, cotangent, on)
        if first is None or first.error <= GRADIENT_TOLERANCE:
            return first
        # A nearly gray picture leaves most units of a shallow network within a step of their kink.
        noise = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
        elsewhere = model.prepare(noise).tensor
        second = model.engine.difference_check({name: elsewhere}, name, tensor, cotangent, "a picture of noise")
        return second if second is not None and second.error < first.error else first

    key = (target.tensor, name, target.name)
    return model.engine.parity(found.output[0], tensors[target.tensor][0], check, key)


def _notes(
    model: Model, space: PictureSpace, state: Climb, best: Restart, start: float, recipe: Recipe, parity: Parity
) -> tuple[str, ...]:
    notes = [*space.notes, *state.notes]
    notes.append(
        "scores are onnxruntime's on the deployed file, of the picture rounded to 8 bits and prepared like any photo"
    )
    if space.channels not in (1, 3):
        shown = "first three" if space.channels > 2 else "first"
        notes.append(f"the picture has {space.channels} channels, of which the {shown} are drawn; picture.npy has all")
    if not parity.passed:
        notes.insert(0, "UNVERIFIED: the converted model disagrees with the deployed one; see parity")
    if state.interrupted:
        notes.append(f"stopped after {state.step} of {recipe.steps} steps; the pictures are those reached")
    if state.attempts:
        notes.append(
            f"no gradient on a nearly gray picture: a start from stronger noise was looked for {state.attempts} times"
        )
    if state.step and not state.awake.any():
        notes.append("no gradient was ever met: nothing in these pictures changes the score")
    elif best.score <= start:
        notes.append("the score did not rise above that of mid gray")
    if model.engine.precision != "float32":
        notes.append(f"the file computes in {model.engine.precision}: the gradient is that of its float32 twin")
    return tuple(notes)


def _key(model: Model, target: VisualTarget, recipe: Recipe, seed: int, restarts: int) -> str:
    spec = model.preprocessing.to_dict() if model.preprocessing else {}
    spec.pop("source", None)
    what = [model.sha256, target.name, recipe.to_dict(), seed, restarts, spec, model.engine.gradient_choice]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _restart(restart: Restart) -> dict[str, Any]:
    return {
        "number": restart.number,
        "score": restart.score,
        "prediction": restart.prediction.to_dict(),
        "stages": [{"step": stage.step, "score": stage.score} for stage in restart.stages],
        "trace": [round(value, 5) for value in restart.trace],
    }


def _image(picture: Pixels) -> Image.Image:
    from PIL import Image

    channels = picture.shape[2]
    return Image.fromarray(picture[..., 0] if channels in (1, 2) else np.ascontiguousarray(picture[..., :3]))
