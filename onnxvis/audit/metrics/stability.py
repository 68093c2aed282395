"""Does the map stay when the picture hardly changes?"""

from __future__ import annotations

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject
from onnxvis.audit.metrics.rerun import attributions, reduced, same_request, with_tensor
from onnxvis.errors import UsageError

__all__ = ["disturbed", "max_sensitivity"]

_COPIES = 10
_PART = 0.02


def disturbed(x: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """The input plus uniform noise of at most ``radius``, in its own type."""
    noisy = x.astype(np.float64) + rng.uniform(-radius, radius, x.shape)
    if x.dtype.kind in "ui":
        limits = np.iinfo(x.dtype)
        noisy = np.clip(np.rint(noisy), limits.min, limits.max)
    return np.asarray(noisy.astype(x.dtype))


def max_sensitivity(subject: Subject) -> Measured:
    """Largest change of the map under small noise, relative to the map; small is good.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, equation 3 (SENS_MAX), by Monte
    Carlo: the largest ``|map(y) - map(x)| / |map(x)|`` (Euclidean) over ten pictures y with uniform noise of at most
    2 % of the input's range of values. The division, as in Captum and Quantus, makes methods comparable.
    """
    if subject.target is None:
        raise UsageError("the explained score is not a number of the output that can be asked for again")
    chosen = same_request(subject.model, subject.explanation)
    size = float(np.linalg.norm(subject.shown()))
    if not size > 0:
        raise UsageError("every value of the map is 0")
    x, settings = subject.x, subject.settings
    radius = _PART * float(x.max().astype(np.float64) - x.min())
    rng = np.random.default_rng(settings.seed)
    worst, step = 0.0, min(settings.batch_size, _COPIES)
    for first in range(0, _COPIES, step):
        count = min(step, _COPIES - first)
        copies = [with_tensor(subject.explanation.prepared, disturbed(x, radius, rng)) for _ in range(count)]
        found = attributions(
            subject.model, chosen, copies, [[subject.target]] * count,
            batch_size=settings.batch_size, seed=int(subject.explanation.parameters.get("seed", settings.seed)),
        )  # fmt: skip
        maps = [reduced(one[0])[subject.content] for one in found]
        worst = max([worst, *(float(np.linalg.norm(m - subject.shown())) / size for m in maps)])
    return Measured(worst, None, f"{_COPIES} copies with uniform noise of at most {radius:.3g} in the input's values")
