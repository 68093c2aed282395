"""Exit codes, error messages and progress bars."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from onnxvis.errors import OnnxvisError
from onnxvis.progress import Progress

__all__ = ["err", "out", "progress_bar", "run", "say_error"]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(error: BaseException | str) -> None:
    """One message on stderr."""
    err.print(f"[bold red]error:[/] {escape(visible(str(error)))}")


def visible(text: str) -> str:
    """Text with control characters replaced, so that a file name or label cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def run(arguments: list[str] | None) -> int:
    """Run the application and turn every ending into an exit code."""
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
    except Exception:  # noqa: BLE001 - the outermost layer: whatever gets here is a defect, and is shown whole
        err.print("[bold red]internal error[/] - this is a defect of onnxvis; please report it with what follows:")
        err.print(escape(traceback.format_exc()))
        return 1
    return 0


@contextlib.contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A bar with the time left on stderr; silent when stderr is not a terminal or ``quiet`` is asked for."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if quiet or not err.is_terminal:
        yield lambda stage, done, total: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=err, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report
