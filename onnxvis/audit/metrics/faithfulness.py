"""Does the sum of the map over some pixels foretell what taking them away does? Sensitivity-n and infidelity.

Both take the map's values as they are drawn, channels reduced, and compare sums over sets of pixels with the drop of
the score when those pixels become the baseline.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject
from onnxvis.errors import UsageError
from onnxvis.kernels.occlusion import Window, windows
from onnxvis.methods import NoOptions, Task
from onnxvis.methods.checkpoint import Checkpoint
from onnxvis.methods.probability import probabilities

__all__ = ["correlation", "infidelity", "optimal_infidelity", "sensitivity_n"]

_PARTS = (0.01, 0.05, 0.2, 0.5, 0.8)
_WINDOW_PART = 14


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; NaN where one side does not vary."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def sensitivity_n(subject: Subject) -> Measured:
    """Mean correlation of map sums and score drops over random sets of n pixels; 1 is good.

    Ancona et al., "Towards better understanding of gradient-based attribution methods for Deep Neural Networks", ICLR
    2018, section 3.2: a method has sensitivity-n where the sum over any n features equals the drop when they are
    removed; measured as Pearson's correlation over random sets. Here n is 1, 5, 20, 50 and 80 % of the pixels, and
    removed pixels become zero as in the paper.
    """
    score, what = subject.scorer()
    fill, words = subject.baseline("zero")
    shown = subject.shown()
    if shown.min() == shown.max():
        raise UsageError("the map is flat: nothing can correlate with it")
    whole = float(score(subject.x)[0])
    count, rng = subject.settings.samples, np.random.default_rng(subject.settings.seed)
    rows = []
    for part in _PARTS:
        n = max(1, round(part * shown.size))
        sums, values = [], []
        for masks in _random_sets(subject, n, count, rng):
            sums.append(masks[(slice(None), *subject.content)].reshape(len(masks), -1) @ shown.reshape(-1))
            values.append(score(subject.in_layout(np.where(masks[:, None], fill, subject.image))))
        rows.append((n / shown.size, correlation(np.concatenate(sums), whole - np.concatenate(values))))
    curve = np.array(rows)
    known = curve[np.isfinite(curve[:, 1]), 1]
    if not known.size:
        raise UsageError("the score does not move when pixels are removed")
    return Measured(float(known.mean()), curve, f"drop of the {what}; {count} sets of each size; pixels become {words}")


def _random_sets(subject: Subject, n: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Masks ``(M, H, W)`` bool with n true pixels each where the picture shows, a batch at a time."""
    size, pixels = subject.settings.batch_size, subject.shown().size
    for first in range(0, count, size):
        masks = np.zeros((min(size, count - first), *subject.heat.shape), bool)
        for mask in masks:
            chosen = np.zeros(pixels, bool)
            chosen[rng.permutation(pixels)[:n]] = True
            mask[subject.content] = chosen.reshape(subject.shown().shape)
        yield masks


def infidelity(subject: Subject) -> Measured:
    """Mean squared error of foretelling drops under square patches, after the best scale of the map; small is good.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, definition 2.1 with square removal
    (section 3.3):  E[(I . map - (f(x) - f(x - I)))^2], I being what a patch takes away. A map's unit is arbitrary, so
    it is scaled by the factor that makes this smallest, as in the authors' code. The value is divided by the mean
    squared drop: 0 is perfect, 1 is no better than a map of zeros.
    """
    sums, drops, note = _patches(subject)
    raw = float(np.mean((sums - drops) ** 2))
    moved = float(np.mean(drops**2))
    if not moved > 0:
        raise UsageError("the score does not move when patches are removed")
    best, factor = optimal_infidelity(sums, drops)
    return Measured(best / moved, None, f"{note}; map times {factor:.3g}; unscaled error {raw:.3g}")


def optimal_infidelity(sums: np.ndarray, drops: np.ndarray) -> tuple[float, float]:
    """The smallest mean squared error over all factors of the map, and the factor."""
    size = float(sums @ sums)
    factor = float(sums @ drops) / size if size > 0 else 0.0
    return float(np.mean((factor * sums - drops) ** 2)), factor


def _patches(subject: Subject) -> tuple[np.ndarray, np.ndarray, str]:
    """Sum of the map and drop of the score under each patch of a grid; the engine of occlusion computes them."""
    from onnxvis.methods.occlusion_drops import Drops, Settings

    target, model, settings = subject.target, subject.model, subject.settings
    _, what = subject.scorer()
    assert target is not None
    fill, words = subject.baseline("zero")
    side = tuple(max(1, round(n / _WINDOW_PART)) for n in subject.heat.shape)
    places = [w for w in windows(subject.heat.shape, (side[0], side[1]), (side[0], side[1])) if _inside(subject, w)]
    name = model.logits.tensor
    task = Task(
        model, subject.x, (subject.explanation.prepared,), ((target,),),
        model.engine.forward(subject.x, (name,)), None, NoOptions(), settings.batch_size, False, settings.seed,
    )  # fmt: skip

    def value(logits: np.ndarray) -> np.ndarray:
        logits = logits.reshape(len(logits), *target.cotangent.shape)
        return np.asarray(target.value(probabilities(model, logits) if what == "probability" else logits))

    base = value(task.logits)
    table = Checkpoint(None, "", (len(places), 1))
    found = Drops(
        task, 0, subject.image, lambda w: fill[:, w.y0 : w.y1, w.x0 : w.x1], places,
        lambda logits: (base - value(logits))[:, None], Settings(settings.engine, "sample", settings.seed), table,
    ).run()  # fmt: skip
    sums = np.array([subject.heat[w.y0 : w.y1, w.x0 : w.x1].sum() for w in places])
    note = f"{len(places)} patches of {side[0]} x {side[1]} pixels become {words}; {what}; engine {found.engine}"
    return sums, table.values[:, 0], note


def _inside(subject: Subject, window: Window) -> bool:
    rows, columns = subject.content
    seen = window.y0 < rows.stop and window.y1 > rows.start and window.x0 < columns.stop and window.x1 > columns.start
    return bool(seen)
