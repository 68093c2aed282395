"""`onnxvis explain`: pictures in, maps and one page out, nothing lost on the way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from onnxvis.cli.cluster import Cluster, say_pace
from onnxvis.cli.console import err, out, progress_bar, say_error, visible
from onnxvis.errors import LayerError, ModelError, OutputError, PictureError, UsageError
from onnxvis.explain_chunk import ChunkItem, ChunkWork, Failed, Kept, chunk_items, explain_chunk
from onnxvis.explaining import Request, Settings, request
from onnxvis.files import write_file
from onnxvis.gallery import page_data
from onnxvis.locations import location_name
from onnxvis.methods import method_names
from onnxvis.model import Model
from onnxvis.picture_files import picture_files
from onnxvis.progress import Progress, report_failed
from onnxvis.render.page import PagePicture, build_page

if TYPE_CHECKING:
    from onnxvis.cluster.explaining import RayExplaining

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
    cluster: Cluster = field(default_factory=Cluster)


@dataclass
class _Run:
    """What has been done so far, by the place of the picture: all of it is on disk already."""

    pages: dict[int, PagePicture] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


def run_job(job: Job) -> int:
    """Explain, write, and say where. 0, or 2 when a picture failed, or 130 when interrupted."""
    engine = _engine(job.cluster)
    items = chunk_items(picture_files(job.images))
    requests, skipped = _requests(job)
    _make_folder(job.out)
    if job.model.labels_note:
        err.print(f"[yellow]note:[/] {escape(visible(job.model.labels_note))}")
    for note in skipped:
        err.print(f"[yellow]left out:[/] {escape(visible(note))}")
    run, code = _Run(), 0
    settings = Settings(job.batch_size, False, job.seed, job.allow_unverified)
    work = ChunkWork(tuple(requests), job.targets, settings, job.out)
    try:
        with progress_bar(job.quiet or (len(items) == 1 and not _slow(requests))) as progress:
            for result in _results(job, items, work, engine, progress):
                _take(job, result, len(items), run)
    except KeyboardInterrupt:
        err.print("\n[yellow]interrupted[/]: what is finished is kept")
        code = 130
    if run.pages:
        _write_page(job, run, skipped)
    if engine is not None and run.pages:
        say_pace(engine.pace, len(run.pages) + len(run.failures))
    if run.failures:
        if len(items) > 1:
            rest = "; the others are complete" if run.pages else ""
            err.print(f"[red]{len(run.failures)} of {len(items)} pictures failed[/]{rest}")
        code = code or 2
    return code


def _engine(cluster: Cluster) -> RayExplaining | None:
    options = cluster.options()
    if options is None:
        return None
    from onnxvis.cluster.explaining import RayExplaining

    return RayExplaining(options)


def _write_page(job: Job, run: _Run, skipped: Sequence[str]) -> None:
    page = job.out / "index.html"
    notes = [*skipped, *(f"failed: {run.failures[place]}" for place in sorted(run.failures))]
    pages = [run.pages[place] for place in sorted(run.pages)]
    write_file(page, build_page(page_data(job.model, pages, notes)).encode("utf-8", "replace"))
    out.print(f"page:   {escape(str(page))}")


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


def _results(
    job: Job, items: Sequence[ChunkItem], work: ChunkWork, engine: RayExplaining | None, progress: Progress
) -> Iterator[Kept | Failed]:
    """What came of every picture, as it is finished."""
    chunks = [items[start : start + job.batch_size] for start in range(0, len(items), job.batch_size)]
    progress("pictures", 0, len(items))
    found: Generator[Iterable[Kept | Failed], None, None]
    if engine is None:
        work = replace(work, settings=replace(work.settings, progress=progress))
        found = (explain_chunk(job.model, chunk, work) for chunk in chunks)
    else:
        found = engine.chunks(job.model, work, chunks)
    done = failed = 0
    with contextlib.closing(found):
        for results in found:
            for result in results:
                done += 1
                failed += isinstance(result, Failed)
                yield result
                progress("pictures", done, len(items))
                report_failed(progress, "pictures", failed)


def _take(job: Job, result: Kept | Failed, total: int, run: _Run) -> None:
    if isinstance(result, Kept):
        run.pages[result.position] = result.page
        if not job.quiet:
            _print(job, result)
        return
    if total == 1 and not isinstance(result.error, PictureError):
        raise result.error
    text = str(result.error)
    run.failures[result.position] = f"{result.shown}: {text}"
    say_error(text if location_name(result.shown) in text else f"{result.shown}: {text}")


def _print(job: Job, kept: Kept) -> None:
    out.print(f"[bold]{escape(visible(kept.shown))}[/]")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for ranked in kept.top[:3]:
        probability = f"{ranked.probability:.1%}" if ranked.probability is not None else ""
        table.add_row(f"{ranked.logit:+.3f}", probability, escape(visible(ranked.label)))
    out.print(table)
    for line in kept.lines:
        out.print(escape(visible(line)))
    out.print(f"  saved in {escape(str(job.out / kept.folder))}")


def _make_folder(folder: Path) -> None:
    """Make the folder, and find out before any work whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {folder}: {error.strerror or error}. Choose another one with --out."
        ) from error
