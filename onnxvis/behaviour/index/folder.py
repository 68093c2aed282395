"""The writing side of a store: one process at a time, every change whole or not at all.

Shard s is committed by one append of its rows to the Lance table. Its tally is on the disk before that, and counts only
if the rows are there. So after any interruption the committed shards are exactly those whose rows can be read. Shards
that come merged are committed at once: one tally, one append.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from onnxvis.behaviour.index.memory import give_back_memory
from onnxvis.behaviour.index.nearest import build_index
from onnxvis.behaviour.index.rows import MANIFEST, TABLE, TALLIES, Answer, lance_module, open_table, to_table
from onnxvis.behaviour.index.shard import IndexSpec, Partial
from onnxvis.behaviour.index.store import ANN_FROM
from onnxvis.behaviour.index.tally import Tally
from onnxvis.behaviour.index.tally_files import TallyFolder
from onnxvis.errors import OutputError, UsageError
from onnxvis.files import write_atomic

__all__ = ["StoreFolder", "locked", "stored_bytes"]

FOLD_EVERY = 16
COMPACT_EVERY = 16
_LOCK = "lock"
_COPIED = 1 << 22  # values in memory while small files are brought together
_KEPT = "Finished shards are kept: make room, or the folder writable, and give the same command again."


class StoreFolder:
    """A store that is being written.

    Args:
        path: the folder.
        spec: what is computed.
        shard_size: pictures in a shard.
        after_commit: called when a shard has been added, by whoever added it.

    Attributes:
        committed: shards whose rows are in the table.
        tally: the counts of exactly those.
    """

    def __init__(
        self, path: Path, spec: IndexSpec, shard_size: int, after_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.path = path
        self.after_commit = after_commit
        self._shard_size = shard_size
        self.spec = spec
        self.tallies = TallyFolder(path / TALLIES, Tally.from_state)
        table = open_table(path)
        self.committed: set[int] = set()
        if table is not None:
            self.committed = set(table.to_table(columns=["shard"])["shard"].unique().to_pylist())
        self.tallies.forget(self.tallies.on_disk() - self.committed)
        self.tally = self.tallies.read(self.committed) or Tally()
        self._since_fold = self._since_compaction = 0
        values = sum(tap.units * tap.places for tap in spec.layers) // 2 if spec.keep_maps else 0
        self._rows_at_once = min(4096, max(1, _COPIED // (values + spec.embedding.units)))
        self._fragment = COMPACT_EVERY * shard_size

    def commit(self, partial: Partial) -> None:
        """Add one shard, or some at once: after this they are in the store, before it, they are not.

        Raises:
            OutputError: they cannot be written.
            UsageError: rows and counts are not of the same shards, or a shard is in the store already.
        """
        shards = partial.tally.shards
        own = [answer.row.id // self._shard_size for answer in partial.answers]
        if shards != frozenset(own) or shards & self.committed:
            raise UsageError(f"shards {sorted(shards)[:5]} cannot be added: they are in the store, or not whole.")
        self.tallies.write(partial.tally)
        self._append(partial.answers, own)
        self.committed |= shards
        self.tally.merge(partial.tally)
        self._since_fold += 1
        self._since_compaction += 1
        if self._since_fold >= FOLD_EVERY:
            self.fold()
        if self._since_compaction >= COMPACT_EVERY:
            self.compact()
        self.after_commit()
        give_back_memory()

    def _append(self, answers: Sequence[Answer], shards: Sequence[int]) -> None:
        layers = len(self.spec.layers) if self.spec.keep_maps else 0
        table = to_table(answers, shards, self.spec.embedding.units, layers)
        mode = "append" if self.committed else "create"
        with _said(self.path / TABLE):
            lance_module().write_dataset(table, str(self.path / TABLE), mode=mode)

    def fold(self) -> None:
        """Bring the tallies of all shards into one file."""
        if self._since_fold:
            self.tallies.fold(self.tally)
            self._since_fold = 0

    def compact(self) -> None:
        """Bring the table's small files into large ones, and delete what earlier versions left."""
        table = open_table(self.path)
        if table is None:
            return
        with _said(self.path / TABLE):
            table.optimize.compact_files(
                target_rows_per_fragment=self._fragment,  # what has this many is not written again
                batch_size=self._rows_at_once,
                num_threads=1,
            )
            table.cleanup_old_versions(older_than=datetime.timedelta(0), delete_unverified=True)
        self._since_compaction = 0

    def tidy(self) -> None:
        """Bring everything into few files, at the end of a pass."""
        self.fold()
        self.compact()
        self.tallies.tidy()

    def build_ann(self, vectors: int) -> dict[str, str]:
        """An approximate index of the embeddings where there are many; what it is, in words, by metric."""
        if vectors < ANN_FROM:
            return {}
        with _said(self.path / TABLE):
            return build_index(open_table(self.path), vectors)

    def count_failed(self) -> int:
        """Pictures that were left out."""
        table = open_table(self.path)
        return 0 if table is None else int(table.count_rows(filter="error != ''"))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        with _said(self.path / MANIFEST):
            write_atomic(self.path / MANIFEST, text.encode("utf-8", "surrogatepass"))


def stored_bytes(path: Path) -> int:
    """Size of all files of a store."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from writing to it; the lock ends with the process, however it ends.

    Raises:
        UsageError: another process writes to it.
        OutputError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / _LOCK).open("a+b")
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}.") from error
    with stream:
        try:
            _lock(stream)
        except OSError:
            raise UsageError(f"another process is writing to {path}: wait for it, or choose another --out.") from None
        yield


def _lock(stream: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """One error of ours for whatever Lance and the file system raise."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # Lance raises OSError, RuntimeError and ValueError for the same causes
        text = " ".join(str(error).split())[:300]
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else text
        raise OutputError(f"cannot write {path}: {reason}. {_KEPT}") from error
