"""What the commands that answer from a store share: opening it, writing files, and the lines of their pages."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxvis._version import __version__
from onnxvis.cli.console import err, progress_bar
from onnxvis.errors import OutputError, UsageError
from onnxvis.files import write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from onnxvis.behaviour.index.store import Store
    from onnxvis.behaviour.stored import Pictures
    from onnxvis.behaviour.thumbnails import Thumbnails
    from onnxvis.progress import Progress

__all__ = [
    "can_be_written",
    "layer_notes",
    "made_line",
    "open_store",
    "own_folder",
    "store_facts",
    "store_thumbnails",
    "write_result",
]


def open_store(path: str) -> Store:
    """Open a store, and say so where its pass did not finish."""
    from onnxvis.behaviour.index.store import Store

    with progress_bar() as progress:
        store = Store.open(path, progress)
    if not store.complete:
        err.print(
            f"[yellow]incomplete[/]: the pass that makes {store.shown} has not finished; answers are about "
            f"{len(store.pictures())} pictures"
        )
    return store


def can_be_written(out: Path, flag: str = "--out") -> None:
    """Refuse, before any work, a folder that cannot be made or be written.

    Raises:
        UsageError: it or what would be a folder above it is a file.
        OutputError: nothing can be written there.
    """
    there = next((place for place in (out, *out.parents) if os.path.lexists(place)), Path())
    if not there.is_dir():
        raise UsageError(f"{there} is a file; name a folder with {flag}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {out}: {there} may not be written. Choose another folder with {flag}.")


def own_folder(out: Path, data: str) -> None:
    """Refuse, before any work, a folder that cannot be one or be written, or whose page another program wrote.

    Args:
        out: where the results go.
        data: the file that the command writes before its page.

    Raises:
        UsageError: it or a folder above it is a file, or it has an index.html without the data.
        OutputError: nothing can be written there.
    """
    can_be_written(out)
    if (out / "index.html").exists() and not (out / data).exists():
        raise UsageError(f"{out} holds an index.html of something else (no {data}). Choose another folder with --out.")


def write_result(path: Path, data: bytes) -> None:
    """Write a file of the results whole or not at all, with its folder.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, data, "Make room, or choose another folder with --out.")


def store_thumbnails(
    store: Store, pictures: Pictures, ids: NDArray[np.int64], side: int, out: Path, progress: Progress
) -> Thumbnails:
    """Small copies of the store's pictures, kept inside the store; in ``out`` where it cannot be written."""
    from onnxvis.behaviour.thumbnails import make_thumbnails

    wanted = [int(id) for id in ids]
    try:
        return make_thumbnails(pictures, wanted, side, store.path / "thumbnails", progress)
    except OutputError as error:
        err.print(f"[yellow]thumbnails are kept in {out} instead[/]: {error}")
        return make_thumbnails(pictures, wanted, side, out / "thumbnails", progress)


def store_facts(store: Store) -> list[tuple[str, str]]:
    """Lines about a store for the head of a page."""
    model = store.manifest.get("model") or {}
    rows = store.pictures()
    failed = sum(bool(row.error) for row in rows)
    lines = [
        ("Store", f"{store.shown}, {len(rows)} pictures" + (f", {failed} of them could not be read" if failed else "")),
        ("Model", f"{model.get('path') or 'in memory'}, SHA-256 {str(model.get('sha256', ''))[:16]}"),
        ("Embedding", store.embedding_layer),
    ]
    return lines if store.complete else [*lines, ("Incomplete", "the pass has not finished")]


def layer_notes(notes: Sequence[tuple[str, Iterable[str]]]) -> list[str]:
    """Sentences about layers: what holds for all of them once, the rest with the layer's name.

    Args:
        notes: for each layer its name and notes.
    """
    layers_of: dict[str, list[str]] = {}
    for layer, own in notes:
        for note in own:
            layers_of.setdefault(note, []).append(layer)
    return [
        f"{note[0].upper()}{note[1:]}." if len(layers) == len(notes) else f"{', '.join(layers)}: {note}."
        for note, layers in layers_of.items()
    ]


def made_line() -> str:
    """When and with what a page was made."""
    return f"onnxvis {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
