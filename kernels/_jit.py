"""Compile a kernel with numba, cached on disk where that is possible, and run it on row blocks in threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["for_row_blocks", "jit", "worker_count"]

_log = logging.getLogger("onnxvis")


def jit(function: Callable[..., Any]) -> Any:
    """``numba.njit(nogil=True, cache=True)`` that survives a machine with no writable cache folder.

    Numba looks for ``NUMBA_CACHE_DIR``, the module's own ``__pycache__`` and the user's cache folder, in this
    order. Where none can be written, it raises ``RuntimeError`` at decoration; the kernel is then compiled
    once in every process, which is said in the log of ``onnxvis``.
    """
    import numba

    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _log.warning(
            "%s is compiled anew in this process (some seconds): no cache folder is writable. "
            "Set NUMBA_CACHE_DIR to a writable folder to avoid it.",
            function.__name__,
        )
        return numba.njit(nogil=True)(function)


def worker_count() -> int:
    """How many threads a kernel uses: the CPUs this process may run on, at most 8, or ``OMP_NUM_THREADS``."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        available = min(available, int(wanted))
    return min(available, 8)


def for_row_blocks(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(start, stop)`` over ``rows`` rows, split between threads; ``work`` must release the GIL.

    Blocks are several times as many as threads, so that a thread that another program slows down does not
    hold up the rest.
    """
    threads = worker_count()
    if threads == 1 or rows < 2 * threads:
        work(0, rows)
        return
    step = -(-rows // (4 * threads))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, r, min(r + step, rows)) for r in range(0, rows, step)]:
            done.result()
