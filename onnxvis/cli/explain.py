"""`onnxvis explain`: pictures in, maps and one page out, nothing lost on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxvis.cli.console import err, out, progress_bar, say_error, visible
from onnxvis.errors import (
    LayerError,
    ModelError,
    OnnxvisError,
    OutputError,
    ParityError,
    PictureError,
    ResultExistsError,
    UsageError,
)
from onnxvis.explaining import Request, Settings, explain_prepared, request
from onnxvis.explanation import Explanation, write_atomic
from onnxvis.gallery import page_data, page_picture, sheet
from onnxvis.methods import method_names
from onnxvis.model import Model
from onnxvis.names import slug
from onnxvis.picture_files import picture_files
from onnxvis.preprocessing import Prepared
from onnxvis.progress import Progress
from onnxvis.render import png_bytes
from onnxvis.render.page import PagePicture, build_page

__all__ = ["Job", "run_job"]


@dataclass(frozen=True)
class Job:
    """Everything `onnxvis explain` was asked."""

    model: Model
    images: tuple[str, ...]
    methods: tuple[str, ...]
    targets: tuple[str, ...]
    out: Path
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    seed: int = 0
    allow_unverified: bool = False
    quiet: bool = False


@dataclass
class _Run:
    """What has been done so far: all of it is on disk already."""

    pages: list[PagePicture] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)


def run_job(job: Job) -> int:
    """Explain, write, and say where. 0, or 2 when a picture failed, or 130 when interrupted."""
    images = picture_files(job.images)
    requests, skipped = _requests(job)
    _make_folder(job.out)
    for note in skipped:
        err.print(f"[yellow]left out:[/] {escape(visible(note))}")
    run = _Run()
    code = 0
    try:
        with progress_bar(job.quiet or (len(images) == 1 and not _slow(requests))) as progress:
            for start in range(0, len(images), job.batch_size):
                progress("pictures", start, len(images))
                _chunk(job, images[start : start + job.batch_size], requests, run, progress)
    except KeyboardInterrupt:
        err.print("\n[yellow]interrupted[/]: what is finished is kept")
        code = 130
    if run.pages:
        page = job.out / "index.html"
        notes = [*skipped, *(f"failed: {f}" for f in run.failures)]
        _write(page, build_page(page_data(job.model, run.pages, notes)).encode("utf-8", "replace"))
        out.print(f"page:   {escape(str(page))}")
    if run.failures:
        err.print(f"[red]{len(run.failures)} of {len(images)} pictures failed[/]; the others are complete")
        code = code or 2
    return code


def _slow(requests: Sequence[Request]) -> bool:
    return any(not r.method.needs_gradient for r in requests)


def _requests(job: Job) -> tuple[list[Request], list[str]]:
    """The methods, checked before anything runs; `all` leaves out what this model cannot do, and says so."""
    everything = "all" in job.methods
    names = method_names() if everything else job.methods
    if not names:
        raise UsageError("no method was given; `onnxvis methods` lists them.")
    requests, skipped = [], []
    for name in dict.fromkeys(names):
        try:
            requests.append(_request(job, name, everything, len(names)))
        except (LayerError, ModelError) as error:
            if not everything:
                raise
            skipped.append(f"{name}: {error}")
    if not requests:
        raise UsageError(f"no method can be used on this model. {' '.join(skipped)}")
    return requests, skipped


def _request(job: Job, name: str, everything: bool, count: int) -> Request:
    from dataclasses import fields

    from onnxvis.methods import get_method

    method = get_method(name)
    options = job.options
    if count > 1 or everything:  # an option goes to the methods that have it; one that none has is an error
        own = {f.name for f in fields(method.options)}
        known = {f.name for n in (method_names() if everything else job.methods) for f in fields(get_method(n).options)}
        for option in options:
            if option not in known:
                method.parse_options(options)
        options = {k: v for k, v in options.items() if k in own}
    if any(f.name == "checkpoint" for f in fields(method.options)):
        options = {"checkpoint": job.out / "partial", **options}
    layer = job.layer if method.uses_layer or count == 1 else None
    return request(job.model, name, options, layer)


def _chunk(job: Job, images: Sequence[str], requests: Sequence[Request], run: _Run, progress: Progress) -> None:
    prepared: list[tuple[str, Prepared]] = []
    for image in images:
        try:
            prepared.append((image, job.model.prepare(image)))
        except PictureError as error:
            run.failures.append(f"{image}: {error}")
            say_error(error)
    settings = Settings(job.batch_size, False, job.seed, job.allow_unverified, progress)
    try:
        found = explain_prepared(job.model, [p for _, p in prepared], requests, [job.targets] * len(prepared), settings)
        finished = list(zip(prepared, found, strict=True))
    except (ParityError, ModelError) as error:
        if len(prepared) <= 1:
            _failed(prepared, error, run, len(job.images))
            return
        finished = []
        for one in prepared:  # one bad picture must not cost its neighbours their answers
            try:
                finished.append((one, explain_prepared(job.model, [one[1]], requests, [job.targets], settings)[0]))
            except (ParityError, ModelError) as single:
                _failed([one], single, run, len(job.images))
    for (image, _), by_method in finished:
        _save(job, image, by_method, run)


def _failed(prepared: Sequence[tuple[str, Prepared]], error: OnnxvisError, run: _Run, total: int) -> None:
    if total == 1:
        raise error
    for image, _ in prepared:
        run.failures.append(f"{image}: {error}")
    say_error(error)


def _save(job: Job, image: str, by_method: Sequence[Sequence[Explanation]], run: _Run) -> None:
    folder = job.out / _folder_name(image, by_method[0][0], run)
    for explanations in by_method:
        for explanation in explanations:
            _keep(explanation, folder / explanation.method / slug(explanation.target))
    _write(folder / "sheet.png", png_bytes(sheet(by_method)))
    run.pages.append(page_picture(by_method))
    if not job.quiet:
        _print(image, by_method, folder)


def _keep(explanation: Explanation, folder: Path) -> None:
    """Save into the folder; where it holds a result of other settings, into one beside it: nothing is lost."""
    try:
        explanation.save(folder)
    except ResultExistsError:
        parts = explanation.manifest()
        settings = [parts["parameters"], parts["layer"], parts["provenance"]["model"]["sha256"], parts["picture"]]
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        explanation.save(folder.with_name(f"{folder.name}-{mark}"), overwrite=True)


def _folder_name(image: str, explanation: Explanation, run: _Run) -> str:
    """The picture's name; pictures of the same name get a piece of their fingerprint."""
    picture = explanation.prepared.picture
    digest = picture.sha256 if picture else ""
    name = slug(Path(image).stem or "picture")
    if run.folders.setdefault(name, image) != image:
        name = f"{name}-{digest[:8]}"
    return name


def _print(image: str, by_method: Sequence[Sequence[Explanation]], folder: Path) -> None:
    first = by_method[0][0]
    out.print(f"[bold]{escape(visible(image))}[/]")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for ranked in first.prediction.top[:3]:
        probability = f"{ranked.probability:.1%}" if ranked.probability is not None else ""
        table.add_row(f"{ranked.logit:+.3f}", probability, escape(visible(ranked.label)))
    out.print(table)
    for column in by_method:
        for explanation in column:
            line = f"  {explanation.method} of {visible(explanation.target)}: score {explanation.score:+.3f}"
            out.print(escape(line))
        if column[0].layer:
            out.print(escape(f"    layer {column[0].layer}: {column[0].layer_reason}"))
        if column[0].parity:
            out.print(escape(f"    {column[0].parity.sentence()}"))
    out.print(f"  saved in {escape(str(folder))}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}.") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}.") from error
