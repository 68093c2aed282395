"""Does the explanation keep what it promises, on this model? Each promise is tried, not taken from the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxvis.progress import Progress

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["FAILED", "NOT_APPLICABLE", "NOT_RUN", "PASSED", "SelfTest", "self_tests"]

PASSED, FAILED, NOT_APPLICABLE, NOT_RUN = "passed", "failed", "not applicable", "not run"


@dataclass(frozen=True)
class SelfTest:
    """One promise and how it stands.

    Attributes:
        name: what is tested: "outputs", "gradient", "completeness", "repeatability", "input shift", "randomization".
        method: of which method; ``None`` for the model as a whole.
        outcome: "passed", "failed", "not applicable" or "not run".
        value: the number that decided, where there is one.
        bound: what it was held against.
        sentence: for people: what was found and what it means.
    """

    name: str
    method: str | None
    outcome: str
    value: float | None
    bound: float | None
    sentence: str


def self_tests(
    model: Model,
    prepared: Sequence[Prepared],
    methods: Sequence[str],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[SelfTest]:
    """Try out what the methods promise on this model.

    Args:
        model: the model.
        prepared: pictures of one input shape, from ``model.prepare``; a handful is enough.
        methods: names from :func:`onnxvis.method_names`, with their default options.
        seed: of everything random.
        progress: called with (stage, done, total).
    """
    raise NotImplementedError
