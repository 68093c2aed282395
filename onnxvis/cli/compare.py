"""`onnxvis compare`: two models and some pictures in, a table, a page and a JSON file out, nothing lost on the way."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from onnxvis._version import __version__
from onnxvis.audit.drift import Comparison, PictureDrift, compare
from onnxvis.audit.drift_page import build_drift_page, draw_worst, verdict
from onnxvis.cli.cluster import Cluster, say_pace
from onnxvis.cli.console import err, out, print_wide, progress_bar, visible
from onnxvis.cli.partial import Partial
from onnxvis.errors import OutputError, UsageError
from onnxvis.files import write_file
from onnxvis.methods.checkpoint import fingerprint
from onnxvis.model import Model, load
from onnxvis.picture_files import picture_files
from onnxvis.single_writer import single_writer

if TYPE_CHECKING:
    from onnxvis.cluster.comparing import RayComparing

__all__ = ["BROKEN", "CompareJob", "Limits", "broken_limits", "open_second", "run_compare"]

BROKEN = 3
"""Exit code when the comparison broke a limit that was asked for."""

_SHOWN = 10
_WIDTH = 120
_LONGEST = 22
_ADVICE = "What is finished is kept: make room, and give the same command again."


@dataclass(frozen=True)
class Limits:
    """What a pipeline accepts; ``None`` accepts anything."""

    max_flips: int | None = None
    min_correlation: float | None = None
    max_difference: float | None = None

    def __post_init__(self) -> None:
        """A limit that nothing could break would let everything pass."""
        if self.min_correlation is not None and not -1 <= self.min_correlation <= 1:
            raise UsageError(f"--min-correlation is a number from -1 to 1, not {self.min_correlation!r}.")
        if self.max_difference is not None and not 0 <= self.max_difference < math.inf:
            raise UsageError(f"--max-difference is a part of the largest logit from 0, not {self.max_difference!r}.")


@dataclass(frozen=True)
class CompareJob:
    """Everything `onnxvis compare` was asked."""

    a: Model
    b: Model
    images: tuple[str, ...]
    methods: tuple[str, ...]
    out: Path
    pictures: int = 12
    limits: Limits = Limits()
    ignore_labels: bool = False
    batch_size: int = 8
    seed: int = 0
    quiet: bool = False
    cluster: Cluster = field(default_factory=Cluster)


def open_second(
    first: Model,
    path: Path,
    preprocessing: str | None,
    labels: str | None,
    provider: str | None,
    output: str | None,
    flags: dict[str, Any],
    gradients: str,
) -> Model:
    """Open B; preprocessing and labels that nobody gave it are those of A, and flags change single fields."""
    from onnxvis.cli.options import apply_flags, open_model, parse_size

    fields = dict(flags)
    size = fields.pop("size")
    pixels = None if size is None else parse_size(size)
    second = open_model(path, preprocessing, labels, provider, output, {"size": size}, gradients)
    if second.preprocessing is None or (len(first.labels) and not len(second.labels)):
        second = load(
            path,
            preprocessing=second.preprocessing or first.preprocessing,
            labels=second.labels if len(second.labels) else first.labels,
            provider=provider,
            output=output,
            size=pixels,
            gradients=gradients,
        )
    apply_flags(second, fields, pixels, "-b")
    return second


def run_compare(job: CompareJob) -> int:
    """Compare, write, and say what was found: 0, 2 a picture failed, 3 a limit was broken, 130 interrupted."""
    engine = _engine(job.cluster)
    images = list(dict.fromkeys(picture_files(job.images)))  # one given twice is still one picture
    _own_folder(job.out)
    with single_writer(job.out):
        return _run(job, images, engine)


def _run(job: CompareJob, images: list[str], engine: RayComparing | None) -> int:
    store = _partial(job)
    known = _known(store)
    if known:
        err.print(f"{len(known)} pictures were finished before")
    fresh: list[PictureDrift] = list(known.values())

    def keep(row: PictureDrift) -> None:
        fresh.append(row)
        store.add(row.sha256, asdict(row))

    interrupted = False
    drawn = []
    with progress_bar(job.quiet) as progress:
        try:
            found = compare(
                job.a, job.b, images, methods=job.methods, batch_size=job.batch_size, seed=job.seed,
                ignore_labels=job.ignore_labels, finished=known, on_picture=keep, progress=progress,
                engine=engine,
            )  # fmt: skip
            drawn = list(draw_worst(job.a, job.b, found, job.pictures, seed=job.seed, progress=progress))
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        err.print(f"\n[yellow]interrupted[/]: {len(fresh)} pictures are kept; the same command goes on from there")
        return 130
    broken = broken_limits(found, job.limits)
    write_file(job.out / "compare.json", _json(job, found, broken), _ADVICE)
    made = f"onnxvis {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    write_file(job.out / "index.html", build_drift_page(found, drawn, broken, made).encode("utf-8", "replace"), _ADVICE)
    store.remove()
    _show(job, found, broken)
    if engine is not None:
        say_pace(engine.pace, len(found.pictures) + len(found.failures))
    if broken:
        return BROKEN
    return 2 if found.failures else 0


def _engine(cluster: Cluster) -> RayComparing | None:
    options = cluster.options()
    if options is None:
        return None
    from onnxvis.cluster.comparing import RayComparing

    return RayComparing(options)


def broken_limits(found: Comparison, limits: Limits) -> list[str]:
    """One sentence for each limit that the comparison breaks; where nothing could be compared, none is kept."""
    broken = []
    asked = [v for v in asdict(limits).values() if v is not None]
    if asked and not found.pictures:
        return ["no picture could be compared, so no limit is kept"]
    if limits.max_flips is not None and found.flips > limits.max_flips:
        broken.append(f"{found.flips} answers flipped; at most {limits.max_flips} may")
    if limits.min_correlation is not None:
        ranks = [m.rank for row in found.pictures for m in row.maps if m.rank is not None]
        if not ranks:
            broken.append("no two maps could be compared, so the least correlation is not kept")
        elif min(ranks) < limits.min_correlation:
            broken.append(f"two maps correlate by {min(ranks):.3f}; at least {limits.min_correlation:g} is asked for")
    if limits.max_difference is not None:
        largest = max(row.logit_relative for row in found.pictures)
        if largest > limits.max_difference:
            broken.append(f"logits differ by {largest:.2%} of the largest; at most {limits.max_difference:.2%} may")
    return broken


def _json(job: CompareJob, found: Comparison, broken: Sequence[str]) -> bytes:
    from onnxvis.provenance import versions

    data: dict[str, Any] = {
        **found.to_dict(),
        "limits": asdict(job.limits),
        "broken": list(broken),
        "seed": job.seed,
        "versions": versions(),
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def _show(job: CompareJob, found: Comparison, broken: Sequence[str]) -> None:
    if not job.quiet:
        _table(found)
    out.print(escape(visible(verdict(found))))
    for note in found.notes:
        out.print(f"[yellow]note:[/] {escape(visible(note))}")
    for name, reason in found.failures:
        err.print(f"[red]failed:[/] {escape(visible(f'{name}: {reason}'))}")
    for line in broken:
        err.print(f"[bold red]limit broken:[/] {escape(line)}")
    out.print(f"page:   {escape(str(job.out / 'index.html'))}")


def _table(found: Comparison) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), title="worst first", title_justify="left")
    for name in ("picture", "A", "B"):
        table.add_column(name, no_wrap=True)
    for name in ("p in A", "p in B", "top 5", "logits", *found.methods):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.pictures[:_SHOWN]:
        (_, a), (_, b) = row.top1
        chances = ["–" if p is None else f"{p:.1%}" for p in row.probability]
        ranks = ["–" if m.rank is None else f"{m.rank:.3f}" for m in row.maps]
        texts = [escape(_cut(visible(t))) for t in (row.name, a, b if row.flipped else "same")]
        style = "bold red" if row.flipped else ""
        table.add_row(*texts, *chances, f"{row.top5_overlap:.0%}", f"{row.logit_relative:.2%}", *ranks, style=style)
    print_wide(table, _WIDTH + sum(len(method) + 2 for method in found.methods))
    left = len(found.pictures) - _SHOWN
    if left > 0:
        out.print(f"... and {left} more in compare.json")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _partial(job: CompareJob) -> Partial:
    sides = [
        (m.sha256, m.preprocessing.to_dict() if m.preprocessing else None, m.provider.name, m.logits.tensor)
        for m in (job.a, job.b)
    ]
    key = fingerprint([__version__, job.methods, job.seed, job.ignore_labels, *sides])
    return Partial(job.out / "compare.partial.jsonl", key)


def _known(store: Partial) -> dict[str, PictureDrift]:
    found = {}
    for name, piece in store.read().items():
        with contextlib.suppress(KeyError, TypeError, ValueError):  # a line of something else
            found[name] = PictureDrift.from_dict(piece)
    return found


def _own_folder(folder: Path) -> None:
    """Make the folder; one whose compare.json is not ours is left alone."""
    path, page = folder / "compare.json", folder / "index.html"
    if page.exists() and not path.exists():
        raise UsageError(
            f"{page} was not written by onnxvis compare, and is left alone. Choose another folder with --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else None
    except OSError as error:
        raise OutputError(
            f"cannot use the folder {folder}: {error.strerror or error}. Choose another with --out."
        ) from error
    try:
        ours = text is None or "comparison_version" in json.loads(text)
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise UsageError(
            f"{path} was not written by onnxvis compare, and is left alone. Choose another folder with --out."
        )
