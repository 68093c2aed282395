"""Which pictures an audit shows, and what they are said to be: class folders, label files, selection on request.

Nothing is guessed: a folder's name counts as a label only when it is, letter for letter, the name (or index) of a
class of the model, and the report says where the labels came from.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxvis.errors import PictureError, UsageError, did_you_mean
from onnxvis.labels import Labels
from onnxvis.locations import is_container, is_location, list_location, redacted
from onnxvis.picture_files import PICTURE_ENDINGS, picture_files

__all__ = [
    "SELECTIONS",
    "Answer",
    "Item",
    "Items",
    "Selection",
    "find_items",
    "parse_selection",
    "select",
    "true_class",
]

SELECTIONS = ("all", "misclassified", "least-confident", "most-confident", "per-class")
_CSV_ENDINGS = (".csv", ".tsv")
_LARGEST_CSV = 200 * 1024**2
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A picture and the class that somebody says it shows (``None`` where nobody does).

    Attributes:
        path: of the file, or a location without the credentials it came with; what the report says.
        truth: the class.
        source: what is opened, where that is more than ``path`` says.
    """

    path: str
    truth: int | None = None
    source: str = field(default="", repr=False)

    @property
    def opened(self) -> str:
        """What the picture is read from."""
        return self.source or self.path


@dataclass(frozen=True)
class Items:
    """All pictures that were given.

    Attributes:
        items: in a fixed order.
        truth_source: one sentence: where the classes come from, or why there are none.
    """

    items: tuple[Item, ...]
    truth_source: str

    @property
    def labelled(self) -> bool:
        """Whether any picture has a class."""
        return any(item.truth is not None for item in self.items)


@dataclass(frozen=True)
class Answer:
    """What selection needs to know of one picture: the class given, its confidence, and what is true.

    ``confidence`` is the probability of the predicted class, or where the model has none its logit.
    """

    predicted: int
    confidence: float
    truth: int | None = None


@dataclass(frozen=True)
class Selection:
    """A rule and, for "per-class", how many of each class."""

    rule: str = "all"
    count: int = 1

    def __str__(self) -> str:
        return f"{self.rule} {self.count}" if self.rule == "per-class" else self.rule


def parse_selection(text: str) -> Selection:
    """``all``, ``misclassified``, ``least-confident``, ``most-confident``, ``per-class`` or ``per-class N``.

    Raises:
        UsageError: something else.
    """
    words = text.replace("=", " ").split()
    rule = words[0].lower() if words else ""
    if rule not in SELECTIONS or len(words) > 1 + (rule == "per-class"):
        hint = did_you_mean(rule, SELECTIONS)
        raise UsageError(f"--select takes {', '.join(SELECTIONS)} or 'per-class N', not {text!r}.{hint}")
    count = words[1] if len(words) > 1 else "1"
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"'per-class N' takes a number from 1, not {count!r}.")
    return Selection(rule, int(count))


def find_items(given: Sequence[str], labels: Labels, classes: int | None, leave_out: str | Path | None = None) -> Items:
    """Pictures with the classes they are said to show.

    A ``.csv`` or ``.tsv`` file among the given has the columns path and label (a heading line is recognized);
    paths are relative to it. Folders whose pictures all lie in sub-folders named like classes give those classes;
    archives and tables likewise, by what :func:`onnxvis.locations.list_location` calls their pictures.

    Args:
        given: picture files, folders, label files, archives, tables, URLs.
        labels: the model's class names.
        classes: how many classes the model has; ``None`` for a dense output, whose pictures have no class.
        leave_out: the folder of a report, which may lie among the pictures: those of its maps are results.

    Raises:
        UsageError: a label file that cannot be read, or a label that no class has.
        PictureError: no picture at all, or an empty name.
    """
    items: list[Item] = []
    sources: list[str] = []
    for name in given:
        if not name.strip():
            raise PictureError("an empty text names no picture: give a file, a folder, a label file or a URL.")
        if Path(name).suffix.lower() in _CSV_ENDINGS:
            items += _from_csv(Path(name), labels, classes)
            sources.append(f"the label file {name}")
        elif Path(name).is_dir():
            found, source = _from_folder(Path(name), labels, classes, leave_out)
            items += found
            sources.append(source)
        elif is_location(name) or is_container(name):
            found, source = _from_location(name, labels, classes)
            items += found
            sources.append(source)
        else:
            items.append(Item(name))
    unique = tuple({item.path: item for item in items}.values())
    if not unique:
        raise PictureError("no picture was given: name files, folders, or a CSV file of paths and labels.")
    stated = [s for s in dict.fromkeys(sources) if s]
    return Items(unique, "; ".join(stated) or "none were given: single files carry no label")


def true_class(text: str, labels: Labels, classes: int) -> int:
    """The class of this name (or one of its comma-separated synonyms), or of this index. Exact but for letter case.

    Raises:
        UsageError: none, or several.
    """
    wanted = _folded(text)
    if wanted.isdecimal() and wanted not in {_folded(name) for name in labels.names}:
        if int(wanted) < classes:
            return int(wanted)
        raise UsageError(f"{text!r} is no class index: the model has {classes} classes, 0 to {classes - 1}.")
    whole = [i for i, name in enumerate(labels.names) if _folded(name) == wanted]
    matches = whole or [i for i, name in enumerate(labels.names) if wanted in {_folded(p) for p in name.split(",")}]
    if len(matches) == 1:
        return matches[0]
    shown = text if len(text) <= 60 else text[:57] + "..."
    if matches:
        raise UsageError(f"{shown!r} names {len(matches)} classes ({', '.join(map(str, matches))}): use the index.")
    raise UsageError(f"no class of the model is called {shown!r} ({len(labels)} labels: {labels.source}).")


def _folded(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).casefold()


def _from_folder(
    folder: Path, labels: Labels, classes: int | None, leave_out: str | Path | None
) -> tuple[list[Item], str]:
    paths = picture_files([str(folder)])
    results = None if leave_out is None else (Path(leave_out) / "maps").resolve()
    if results is not None and results.is_relative_to(folder.resolve()):
        paths = [p for p in paths if not Path(p).resolve().is_relative_to(results)]
    if classes is None:
        return [Item(p) for p in paths], "none: the output is dense, and a folder's name is no answer to it"
    names = {p: Path(p).relative_to(folder).parts[0] for p in paths if len(Path(p).relative_to(folder).parts) > 1}
    if not names:
        return [Item(p) for p in paths], f"none: {folder} has no sub-folders"
    known, unknown = _classes_of(names.values(), labels, classes)
    outside = [p for p in paths if p not in names]
    if unknown or outside:
        why = f"{', '.join(unknown[:_SHOWN])} are not names of classes" if unknown else "some pictures lie outside them"
        return [Item(p) for p in paths], f"none: sub-folders of {folder} were not taken as classes ({why})"
    return [Item(p, known[names[p]]) for p in paths], f"the names of the sub-folders of {folder}"


def _from_location(location: str, labels: Labels, classes: int | None) -> tuple[list[Item], str]:
    found, shown = list(list_location(location, PICTURE_ENDINGS)), redacted(location)
    if not found:
        raise PictureError(f"there are no pictures at {shown} ({', '.join(sorted(PICTURE_ENDINGS))}).")
    plain = [Item(redacted(place), None, place) for place, _ in found]
    if classes is None or (not is_container(location) and len(found) == 1):
        return plain, "" if classes is not None else "none: the output is dense, and a label is no answer to it"
    known, unknown = _classes_of([label for _, label in found if label is not None], labels, classes)
    if unknown or not known or any(label is None for _, label in found):
        why = f"{', '.join(unknown[:_SHOWN])} are not names of classes" if unknown else "not every picture has one"
        return plain, f"none: labels in {shown} were not taken as classes ({why})"
    items = [Item(redacted(place), known[str(label)], place) for place, label in found]
    return items, f"folders or labels in {shown}"


def _classes_of(names: Iterable[str], labels: Labels, classes: int) -> tuple[dict[str, int], list[str]]:
    """The classes that names stand for, and the names that stand for none."""
    known: dict[str, int] = {}
    unknown: list[str] = []
    for name in sorted(set(names)):
        try:
            known[name] = true_class(name, labels, classes)
        except UsageError:
            unknown.append(name)
    return known, unknown


def _from_csv(path: Path, labels: Labels, classes: int | None) -> list[Item]:
    if classes is None:
        raise UsageError(f"{path}: a label for a whole picture says nothing about a dense output. Give the pictures.")
    items: list[Item] = []
    for number, row in enumerate(_rows(path), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) < 2:
            raise UsageError(f"{path}, line {number}: a path and a label are needed, separated by a comma.")
        if number == 1 and not (path.parent / cells[0]).exists() and cells[1].lower() in ("label", "class", "truth"):
            continue
        try:
            truth = true_class(cells[1], labels, classes)
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        place = cells[0] if is_location(cells[0]) else str(path.parent / cells[0])
        items.append(Item(redacted(place), truth, place))
    return items


def _rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _LARGEST_CSV:
            raise UsageError(f"{path} is too large for a label file ({path.stat().st_size:,} bytes): check the path.")
        text = path.read_text(encoding="utf-8-sig")
        return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"the label file {path} cannot be read ({error}): check the path.") from None


def select(answers: Sequence[Answer], selection: Selection, limit: int) -> tuple[list[int], str]:
    """Which pictures to show, and a sentence that says how they were chosen.

    Args:
        answers: of all pictures that the model could answer.
        selection: the rule.
        limit: how many at most. Where "all" are more, they are taken at equal distances, not from the beginning.

    Returns:
        Indices into ``answers``: in the given order for "all" and "per-class", else the most telling first.

    Raises:
        UsageError: misclassified pictures are asked for, but none has a label; or the limit is below 1.
    """
    if limit < 1:
        raise UsageError(f"--limit takes a number from 1, not {limit}.")
    order = range(len(answers))
    rule = selection.rule
    if rule == "misclassified":
        if all(a.truth is None for a in answers):
            raise UsageError(
                "--select misclassified needs labels: put the pictures into sub-folders named like classes, or give "
                "a CSV file with the columns path and label."
            )
        wrong = [i for i in order if answers[i].truth is not None and answers[i].truth != answers[i].predicted]
        chosen = sorted(wrong, key=lambda i: -answers[i].confidence)
        words = f"{len(wrong)} misclassified of {len(answers)} pictures, the most confident mistakes first"
    elif rule in ("least-confident", "most-confident"):
        sign = 1 if rule == "least-confident" else -1
        chosen = sorted(order, key=lambda i: sign * answers[i].confidence)
        words = f"the {rule.replace('-', ' ')} of {len(answers)} pictures"
    elif rule == "per-class":
        chosen = _per_class(answers, selection.count)
        kind = "class" if any(a.truth is not None for a in answers) else "predicted class"
        words = f"up to {selection.count} of each {kind}, the least confident first, of {len(answers)} pictures"
    else:
        chosen = list(order)
        if len(chosen) > limit:
            step = len(chosen) / limit
            chosen = [chosen[int(k * step)] for k in range(limit)]
            return chosen, f"{limit} of {len(answers)} pictures, taken at equal distances (--limit {limit})"
        words = f"all {len(answers)} pictures"
    if len(chosen) > limit:
        words += f"; the first {limit} of {len(chosen)} (--limit {limit})"
    return chosen[:limit], words


def _per_class(answers: Sequence[Answer], count: int) -> list[int]:
    classes: dict[int, list[int]] = {}
    for i, answer in enumerate(answers):
        classes.setdefault(answer.predicted if answer.truth is None else answer.truth, []).append(i)
    chosen: list[int] = []
    for members in (classes[key] for key in sorted(classes)):
        chosen += sorted(members, key=lambda i: answers[i].confidence)[:count]
    return chosen
