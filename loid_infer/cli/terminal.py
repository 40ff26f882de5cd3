"""Terminal output: progress and messages on stderr, results on stdout as a table or one JSON object."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from loid_infer.errors import LoidError
from loid_infer.types import SILENT, Task

EXIT_USER = 2
_SHOW_AFTER_S = 2.0
_COMMAND = re.compile(r"loid-infer (?:(?:cache|plugin|llmrec|cf) )?[a-z]+")


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")


class _Bar:
    """A progress bar that appears only after a while, so that quick tasks show none."""

    def __init__(self, progress: Progress, name: str, total: int | None, unit: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, unit=unit, visible=False)

    def advance(self, n: int) -> None:
        visible = (self._progress.tasks[0].elapsed or 0.0) > _SHOW_AFTER_S
        self._progress.update(self._task, advance=n, visible=visible)


class People:
    """Progress and messages on stderr: bars only on a terminal, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def task(self, name: str, total: int | None, unit: str) -> Iterator[Task]:
        """See `types.Progress`."""
        if self._quiet or not self._console.is_terminal:
            yield SILENT
            return
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), "eta", TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Bar(progress, name, total, unit)

    def say(self, line: str) -> None:
        """See `types.Progress`."""
        if not self._quiet:
            self._console.print(line, markup=False, soft_wrap=True)


def show(result: Any, *, as_json: bool) -> None:
    """Print a result (a record or a dictionary of records) as one line of JSON or as a table."""
    fields = to_builtins(result, enc_hook=_to_builtin)
    if as_json:
        sys.stdout.write(json.dumps(fields, default=_to_builtin, allow_nan=False) + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    table, tables = Table(show_header=False, box=None, pad_edge=False), []
    for name, value in fields.items():
        if isinstance(value, list | tuple) and value and all(isinstance(row, dict) for row in value):
            tables.append(_rows_table(name, value))
        else:
            table.add_row(name, _formatted(value))
    for part in ([table] if table.row_count else []) + tables:
        console.print(part)


def show_error(error: LoidError, lead: str, *, as_json: bool) -> None:
    """Print an error on stderr after `lead`, and with `--json` as `{"error": ..}` on stdout."""
    sys.stderr.write(f"{lead}{error}\n")
    if as_json:
        names = ("what", "where", "expected", "got", "fix")
        show({"error": {name: getattr(error, name) for name in names}}, as_json=True)


def in_workspace(advice: str, workspace: Path) -> str:
    """`advice` with `-w WORKSPACE` in its commands, so that they work as they are."""
    return _COMMAND.sub(lambda found: f"{found[0]} -w {shlex.quote(str(workspace))}", advice)


def _rows_table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold", no_wrap=column == "fingerprint")
    for row in rows:
        table.add_row(*(_formatted(value) for value in row.values()))
    return table


def _formatted(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
            return f"{value:.7g}" if text == "1" else text  # cosines differ in the fifth digit
        case dict():
            return "  ".join(f"{key} {_formatted(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(_formatted(part) for part in value) or "none"
    return str(value)


def _to_builtin(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
