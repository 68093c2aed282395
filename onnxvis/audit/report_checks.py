"""The self-tests of an audit: run once on a few pictures, kept, and stated with their outcome."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxvis.audit.randomization import randomization_test
from onnxvis.audit.report_steps import Work
from onnxvis.audit.selection import Item
from onnxvis.audit.selftests import NOT_RUN, self_tests
from onnxvis.errors import OnnxvisError
from onnxvis.prediction import same_shape
from onnxvis.progress import Progress

__all__ = ["run_checks"]

_QUICK_PICTURES, _FULL_PICTURES = 2, 4
_QUICK_STAGES, _FULL_STAGES = 3, 8
_RANDOMIZATION = "randomization"


def run_checks(work: Work, items: Sequence[Item], progress: Progress) -> dict[str, Any]:
    """Self-tests and the randomization test of every method, as plain data; kept, and taken from there next time.

    Args:
        work: the audit.
        items: the chosen pictures; the first ones of one input shape are used.
        progress: where it is.
    """
    prepared = [work.model.prepare(item.path) for item in items[: _FULL_PICTURES if work.full else _QUICK_PICTURES]]
    prepared = [prepared[i] for i in same_shape([p.tensor for p in prepared])[0]]
    pictures = [p.picture.sha256 for p in prepared if p.picture]
    kept = work.folder.part("checks")
    if kept is not None and kept["pictures"] == pictures:
        return dict(kept)
    methods = [r.method.name for r in work.requests]
    seed = work.settings.seed
    tests: list[dict[str, Any]] = []
    try:
        found = self_tests(work.model, prepared, methods, seed=seed, progress=progress)
        tests = [_plain(dataclasses.asdict(test)) for test in found]
    except OnnxvisError as error:
        tests = [_not_run("self-tests", str(error))]
    random: dict[str, Any] | None = None
    try:
        stages = _FULL_STAGES if work.full else _QUICK_STAGES
        outcome = randomization_test(
            work.model, prepared, methods, seed=seed, max_stages=stages,
            batch_size=work.settings.batch_size, progress=progress,
        )  # fmt: skip
        random = _plain(outcome.to_dict())
        tests = [test for test in tests if test["name"] != _RANDOMIZATION]
    except OnnxvisError as error:
        tests.append(_not_run(_RANDOMIZATION, str(error)))
    result = {"pictures": pictures, "self_tests": tests, "randomization": random}
    work.folder.save_part("checks", result)
    return result


def _not_run(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "method": None, "outcome": NOT_RUN, "value": None, "bound": None, "sentence": reason}


def _plain(value: Any) -> Any:
    """Plain JSON data; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | str | int | None):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
