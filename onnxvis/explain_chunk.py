"""The unit of work of `onnxvis explain`: a few pictures in, their results on the disk, and what a page needs out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from onnxvis.errors import ModelError, OnnxvisError, ParityError, PictureError, ResultExistsError
from onnxvis.explaining import Request, Settings, explain_prepared
from onnxvis.explanation import Explanation
from onnxvis.files import write_file
from onnxvis.gallery import page_picture, sheet
from onnxvis.locations import is_location, location_name, redacted
from onnxvis.names import slug
from onnxvis.progress import StageClock
from onnxvis.render import png_bytes

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.prediction import RankedClass
    from onnxvis.preprocessing import Prepared
    from onnxvis.render.page import PagePicture

__all__ = [
    "ChunkItem",
    "ChunkWork",
    "Failed",
    "Kept",
    "chunk_items",
    "explain_chunk",
    "explained",
    "prepared_chunk",
]

Stages = dict[str, float]


@dataclass(frozen=True)
class ChunkItem:
    """One picture of a run.

    Attributes:
        position: its place in the listing.
        image: path or location.
        name: of its folder.
        alone: whether the folder's name is its own; else a piece of its fingerprint is added.
    """

    position: int
    image: str
    name: str
    alone: bool


@dataclass(frozen=True, eq=False)
class ChunkWork:
    """What all chunks of a run share; plain data, if the progress of the settings is.

    Attributes:
        requests: methods, checked against the model.
        targets: asked for on every picture.
        settings: of the run.
        out: output folder; each picture gets a folder in it.
        facts: of the model, for the manifests, where they were found by another process; ``None`` asks the model.
    """

    requests: tuple[Request, ...]
    targets: tuple[str, ...]
    settings: Settings
    out: Path
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """A picture whose results are on the disk.

    Attributes:
        position: its place in the listing.
        shown: its name for people, without credentials.
        folder: name of its folder below the output folder.
        page: its part of the page.
        top: what the model answers, strongest first.
        lines: what was explained, a line for each map, layer and parity record.
    """

    position: int
    shown: str
    folder: str
    page: PagePicture = field(repr=False)
    top: tuple[RankedClass, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Failed:
    """A picture that could not be explained; it costs only itself.

    Attributes:
        position: its place in the listing.
        shown: its name for people, without credentials.
        error: why.
    """

    position: int
    shown: str
    error: OnnxvisError


def chunk_items(images: Sequence[str]) -> list[ChunkItem]:
    """The pictures of a run with the names of their folders: the first of a name has it alone."""
    owners: dict[str, str] = {}
    items = []
    for position, image in enumerate(images):
        name = slug(_stem(image) or "picture")
        items.append(ChunkItem(position, image, name, owners.setdefault(name, image) == image))
    return items


def _stem(image: str) -> str:
    if not is_location(image):
        return Path(image).stem
    name, _, row = location_name(image).partition(" row ")
    return PurePosixPath(name).stem + (f"-row-{row}" if row else "")


def explain_chunk(
    model: Model, items: Sequence[ChunkItem], work: ChunkWork, stages: Stages | None = None
) -> Iterator[Kept | Failed]:
    """Explain some pictures together and write each one's results as it is handed out.

    Done again, for example because the process that did it died, it writes the same.

    Args:
        model: the model.
        items: the pictures.
        work: what is asked of them.
        stages: seconds by stage are added to it.

    Raises:
        OutputError: a result cannot be written.
    """
    clock = StageClock(stages)
    prepared, failed = prepared_chunk(model, items)
    clock.stop("reading")
    yield from failed
    clock.start()
    for item, found in explained(model, prepared, work):
        clock.stop("explaining")
        if isinstance(found, OnnxvisError):
            yield Failed(item.position, redacted(item.image), found)
        else:
            kept = _keep(work, item, found)
            clock.stop("drawing and writing")
            yield kept
        clock.start()


def prepared_chunk(model: Model, items: Sequence[ChunkItem]) -> tuple[list[tuple[ChunkItem, Prepared]], list[Failed]]:
    """Read and preprocess pictures; those that cannot be read come apart."""
    prepared: list[tuple[ChunkItem, Prepared]] = []
    failed = []
    for item in items:
        try:
            prepared.append((item, model.prepare(item.image)))
        except PictureError as error:
            failed.append(Failed(item.position, redacted(item.image), error))
    return prepared, failed


def explained(
    model: Model, prepared: Sequence[tuple[ChunkItem, Prepared]], work: ChunkWork
) -> Iterator[tuple[ChunkItem, list[list[Explanation]] | OnnxvisError]]:
    """The explanations of prepared pictures, ``[method][target]``; where they fail together, one by one."""
    try:
        inputs = [p for _, p in prepared]
        found = explain_prepared(model, inputs, work.requests, [work.targets] * len(inputs), work.settings)
    except (ParityError, ModelError) as error:
        if len(prepared) == 1:
            yield prepared[0][0], error
            return
        for item, one in prepared:  # one bad picture must not cost its neighbors their answers
            try:
                yield item, explain_prepared(model, [one], work.requests, [work.targets], work.settings)[0]
            except (ParityError, ModelError) as single:
                yield item, single
        return
    yield from zip((item for item, _ in prepared), found, strict=True)


def _keep(work: ChunkWork, item: ChunkItem, given: Sequence[Sequence[Explanation]]) -> Kept:
    by_method = given if work.facts is None else [[_with_facts(e, work.facts) for e in column] for column in given]
    first = by_method[0][0]
    digest = first.prepared.picture.sha256 if first.prepared.picture else ""
    name = item.name if item.alone else f"{item.name}-{digest[:8]}"
    for explanations in by_method:
        for explanation in explanations:
            _save(explanation, work.out / name / explanation.method / slug(explanation.target))
    write_file(work.out / name / "sheet.png", png_bytes(sheet(by_method)))
    lines = tuple(_lines(by_method))
    return Kept(item.position, redacted(item.image), name, page_picture(by_method), first.prediction.top, lines)


def _with_facts(explanation: Explanation, facts: Mapping[str, Any]) -> Explanation:
    return dataclasses.replace(explanation, provenance={**explanation.provenance, "model": facts})


def _save(explanation: Explanation, folder: Path) -> None:
    """Save into the folder; where it holds a result of other settings, into one beside it: nothing is lost."""
    try:
        explanation.save(folder)
    except ResultExistsError:
        parts = explanation.manifest()
        settings = [parts["parameters"], parts["layer"], parts["provenance"]["model"]["sha256"], parts["picture"]]
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        explanation.save(folder.with_name(f"{folder.name}-{mark}"), overwrite=True)


def _lines(by_method: Sequence[Sequence[Explanation]]) -> Iterator[str]:
    for column in by_method:
        for explanation in column:
            yield f"  {explanation.method} of {explanation.target}: score {explanation.score:+.3f}"
        if column[0].layer:
            yield f"    layer {column[0].layer}: {column[0].layer_reason}"
        if column[0].parity:
            yield f"    {column[0].parity.sentence()}"
