"""Exit codes, error messages and progress bars."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxvis.errors import OnnxvisError
from onnxvis.progress import Progress, silent

__all__ = ["err", "out", "pace_text", "print_wide", "progress_bar", "run", "say_error", "visible"]

# Without emoji: ":x:" in a file name or a label is text.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_WIDE, _BAR, _SHORT_BAR = 100, 40, 16
_FULL = (errno.ENOSPC, errno.EDQUOT)
_AVERAGED = 300.0  # seconds over which the pace is a mean: results of actors come in bursts


def say_error(error: BaseException | str) -> None:
    """One message on stderr."""
    err.print(f"[bold red]error:[/] {escape(visible(str(error)))}")


def print_wide(table: Table, width: int) -> None:
    """A table at its own width also where the terminal is narrower: lines wrap there, and no cell is cut."""
    Console(highlight=False, soft_wrap=True, emoji=False, width=max(out.width, width)).print(table)


def visible(text: str) -> str:
    """Text with control characters replaced, so that a file name or label cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def run(arguments: list[str] | None) -> int:
    """Run the application and turn every ending into an exit code."""
    _replace_what_cannot_be_shown()
    from onnxvis.cli.app import app

    try:
        app(args=arguments, prog_name="onnxvis")
    except SystemExit as ending:  # the CLI library reports wrong usage itself, with code 2
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except OnnxvisError as error:
        say_error(error)
        return 2
    except KeyboardInterrupt:
        err.print("\ninterrupted; finished results are kept")
        return 130
    except BrokenPipeError:  # the reader of our output went away
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        say_error("not enough memory for this. Use a smaller --batch-size or a smaller picture.")
        return 2
    except OSError as error:
        if error.errno not in _FULL:
            return _defect()
        say_error(f"{error.strerror}{f': {error.filename}' if error.filename else ''}. Make room and run it again.")
        return 2
    except Exception:  # noqa: BLE001 - the outermost layer: whatever gets here is a defect, and is shown whole
        return _defect()
    return 0


def _replace_what_cannot_be_shown() -> None:
    """A label or a file name that the terminal's encoding lacks becomes a question mark, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _defect() -> int:
    err.print("[bold red]internal error[/] - this is a defect of onnxvis; please report it with what follows:")
    err.print(escape(traceback.format_exc()))
    return 1


@contextlib.contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """Bars on stderr with pace, failures and time left; silent where that is no terminal, or ``quiet`` is asked for."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if quiet or not err.is_terminal:
        yield silent
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(_BAR if err.width >= _WIDE else _SHORT_BAR),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    with Bar(*columns, console=err, transient=True, speed_estimate_period=_AVERAGED) as bar:
        yield _Bars(bar)


class _Bars:
    """One bar for each stage."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, completed=done, pace="", failed="")
        task = self._tasks[stage]
        self._bar.update(task, completed=done, total=total)
        speed = next((one.speed for one in self._bar.tasks if one.id == task), None)
        self._bar.update(task, pace=pace_text(speed))

    def failed(self, stage: str, count: int) -> None:
        if count and stage in self._tasks:
            self._bar.update(self._tasks[stage], failed=f"{count:,} failed")


def pace_text(speed: float | None) -> str:
    """Steps a second in few characters; where they are slower than that, seconds for each."""
    if not speed:
        return ""
    if speed < 1:
        return f"{1 / speed:.3g} s each"
    return f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s"
