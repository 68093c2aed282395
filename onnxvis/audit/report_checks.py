"""The self-tests of an audit: run once on a few pictures, kept, and stated with their outcome."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxvis.audit.randomization import DEPENDS, UNCHANGED, randomization_test
from onnxvis.audit.report_steps import Work
from onnxvis.audit.report_unit import settle
from onnxvis.audit.selection import Item
from onnxvis.audit.selftests import FAILED, NOT_RUN, PASSED, self_tests
from onnxvis.errors import OnnxvisError
from onnxvis.prediction import same_shape
from onnxvis.progress import Progress

if TYPE_CHECKING:
    from onnxvis.explaining import Request
    from onnxvis.preprocessing import Prepared

__all__ = ["run_checks"]

_QUICK_PICTURES, _FULL_PICTURES = 2, 4
_STAGES = 8
_RANDOMIZATION = "randomization"


def run_checks(
    work: Work, items: Sequence[Item], answers: Mapping[str, Mapping[str, Any]], progress: Progress
) -> dict[str, Any]:
    """Self-tests and the randomization test of every method, as plain data; kept, and taken from there next time.

    Args:
        work: the audit.
        items: the chosen pictures; the first ones of one input shape are used.
        answers: on them, by path.
        progress: where it is.
    """
    prepared = [
        work.model.prepare(item.opened) for item in items[: _FULL_PICTURES if work.asked.full else _QUICK_PICTURES]
    ]
    prepared = [prepared[i] for i in same_shape([p.tensor for p in prepared])[0]]
    pictures = [p.picture.sha256 for p in prepared if p.picture]
    kept = work.folder.part("checks")
    if kept is not None and kept["pictures"] == pictures:
        return dict(kept)
    settle(work.model, work.asked, (items[0], answers[items[0].path]))
    methods = list(work.asked.requests)
    seed = work.asked.settings.seed
    tests: list[dict[str, Any]] = []
    try:
        found = self_tests(work.model, prepared, methods, seed=seed, progress=progress)
        tests = [_plain(dataclasses.asdict(test)) for test in found]
    except OnnxvisError as error:
        tests = [_not_run("self-tests", str(error))]
    random = _by_stages(work, prepared, methods, progress) if work.asked.full else None
    if random is not None:
        tests = [t for t in tests if t["name"] != _RANDOMIZATION] + [_row(v) for v in random["verdicts"]]
    result = {"pictures": pictures, "self_tests": tests, "randomization": random}
    work.folder.save_part("checks", result)
    return result


def _by_stages(
    work: Work, prepared: Sequence[Prepared], methods: Sequence[Request], progress: Progress
) -> dict[str, Any] | None:
    """The randomization test down to the first layer, with every stage; the self-tests go half way."""
    try:
        found = randomization_test(
            work.model, prepared, methods, seed=work.asked.settings.seed, max_stages=_STAGES,
            batch_size=work.asked.settings.batch_size, progress=progress,
        )  # fmt: skip
    except OnnxvisError:  # the self-tests met the same error, and their rows say it
        return None
    return dict(_plain(found.to_dict()))


def _row(verdict: Mapping[str, Any]) -> dict[str, Any]:
    outcome = {DEPENDS: PASSED, UNCHANGED: FAILED}.get(verdict["verdict"], NOT_RUN)
    numbers = {k: verdict[k] for k in ("method", "value", "bound", "sentence")}
    return {"name": _RANDOMIZATION, "outcome": outcome, **numbers}


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
