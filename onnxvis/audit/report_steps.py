"""The long work of an audit, in pieces that are kept as they are finished: answers on all pictures, maps of the chosen.

Pictures run in the same groups whether an audit ran through or was interrupted, and whoever computes them, so that all
give the same numbers. Only this process writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from onnxvis.audit.report_state import FinishedPicture, LostPicture, ReportFolder
from onnxvis.audit.report_unit import Asked, Group, answer_group, explain_group, settle, targets_of
from onnxvis.audit.selection import Item
from onnxvis.progress import Progress, report_failed

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["AuditEngine", "First", "Work", "answer_all", "explain_chosen"]

First = tuple[Item, Mapping[str, Any]]
_ANSWERS = 16


class AuditEngine(Protocol):
    """Computes the units of an audit somewhere else; each exactly once, in any order."""

    def answers(
        self, model: Model, groups: Sequence[Sequence[Item]], batch_size: int
    ) -> Generator[list[dict[str, Any]], None, None]:
        """What :func:`answer_group` gives, for every group."""

    def pictures(
        self, model: Model, asked: Asked, first: First, groups: Sequence[Group]
    ) -> Generator[list[FinishedPicture | LostPicture], None, None]:
        """What :func:`explain_group` gives, for every group, after :func:`settle` with the first picture."""

    def close(self) -> None:
        """Nothing more will be asked of it."""


@dataclass(frozen=True)
class Work:
    """An audit at work.

    Attributes:
        model: the audited model.
        folder: where results go.
        asked: what every picture gets.
        engine: who computes; ``None`` is this process.
    """

    model: Model
    folder: ReportFolder
    asked: Asked
    engine: AuditEngine | None = None


def answer_all(work: Work, items: Sequence[Item], progress: Progress) -> dict[str, dict[str, Any]]:
    """What the model answers on every picture, by path; a picture that cannot be read has an "error" instead."""
    known, batch_size = work.folder.answers(), work.asked.settings.batch_size
    groups = [items[start : start + _ANSWERS] for start in range(0, len(items), _ANSWERS)]
    whole = [all(item.path in known for item in group) for group in groups]
    todo = [group for group, complete in zip(groups, whole, strict=True) if not complete]
    done = len(items) - sum(len(group) for group in todo)
    failed = sum(
        "error" in known[item.path] for group, complete in zip(groups, whole, strict=True) if complete for item in group
    )
    progress("predictions", done, len(items))
    if todo:
        for records in _answered(work, todo, batch_size):
            work.folder.add_answers(records)
            known.update({record["path"]: record for record in records})
            done += len(records)
            failed += sum("error" in record for record in records)
            progress("predictions", done, len(items))
            report_failed(progress, "predictions", failed)
    return {item.path: known[item.path] for item in items}


def _answered(
    work: Work, groups: Sequence[Sequence[Item]], batch_size: int
) -> Generator[list[dict[str, Any]], None, None]:
    if work.engine is not None:
        with contextlib.closing(work.engine.answers(work.model, groups, batch_size)) as found:
            yield from found
        return
    settle(work.model)
    for group in groups:
        yield answer_group(work.model, group, batch_size)


def explain_chosen(
    work: Work,
    items: Sequence[Item],
    answers: Mapping[str, Mapping[str, Any]],
    lost: dict[str, str],
    progress: Progress,
) -> list[str]:
    """Maps and metrics of the chosen pictures; each is on disk when it is finished.

    Args:
        work: the audit.
        items: the chosen pictures.
        answers: on them, by path.
        lost: pictures that could not be read again are added to it, with the reason.
        progress: where it is.

    Returns:
        Paths of the pictures that are finished, in the given order.
    """
    finished = {item.path for item in items if _finished(work, item, answers)}
    todo = _missing(work, items, answers, finished)
    failed = sum(bool(entry["problems"]) for path in finished if (entry := work.folder.entry(path)) is not None)
    progress("pictures", len(finished), len(items))
    if todo:
        with contextlib.closing(_explained(work, (items[0], answers[items[0].path]), todo)) as found:
            for picture in found:
                if isinstance(picture, LostPicture):
                    lost[picture.path] = picture.error
                    failed += 1
                else:
                    work.folder.save(picture)
                    finished.add(picture.path)
                    failed += bool(picture.entry["problems"])
                progress("pictures", len(finished) + len(lost), len(items))
                report_failed(progress, "pictures", failed)
    return [item.path for item in items if item.path in finished]


def _missing(
    work: Work, items: Sequence[Item], answers: Mapping[str, Mapping[str, Any]], finished: set[str]
) -> list[Group]:
    step = work.asked.settings.batch_size
    groups = []
    for start in range(0, len(items), step):
        own = tuple(items[start : start + step])
        missing = tuple(row for row, item in enumerate(own) if item.path not in finished)
        if missing:
            groups.append(Group(own, tuple(answers[item.path] for item in own), missing))
    return groups


def _explained(
    work: Work, first: First, groups: Sequence[Group]
) -> Generator[FinishedPicture | LostPicture, None, None]:
    if work.engine is not None:
        with contextlib.closing(work.engine.pictures(work.model, work.asked, first, groups)) as found:
            for pictures in found:
                yield from pictures
        return
    settle(work.model, work.asked, first)
    for group in groups:
        yield from explain_group(work.model, work.asked, group)


def _finished(work: Work, item: Item, answers: Mapping[str, Mapping[str, Any]]) -> bool:
    found = work.folder.entry(item.path)
    return (
        found is not None
        and found["sha256"] == answers[item.path]["sha256"]
        and found["targets"] == [str(t) for t in targets_of(work.asked.targets, item, answers[item.path])]
    )
