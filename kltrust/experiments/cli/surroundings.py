"""The surroundings of a command: its folder, its output, the locale, warnings and errors."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kltrust.experiments.engine.devices import mend_cache


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Within, output takes any letter, and a warning is one line; at the end, output is flushed.

    Raises:
        ValueError: if the working folder was deleted.
        OSError: if output can't be written.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ValueError(
            "the working folder was deleted: change to one that is there, as in `cd ~`"
        ) from error
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name with a letter that the terminal can't write must not end a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    shown = warnings.showwarning
    warnings.showwarning = _one_line(shown)
    try:
        yield
    finally:
        warnings.showwarning = shown
        sys.stdout.flush()


def _one_line(otherwise: Any) -> Any:
    """Shows our own warnings in one line, and other libraries' as before."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if category.__module__.startswith("kltrust."):
            print(f"kltrust: warning: {message}", file=sys.stderr)
        elif "persistent compilation cache" in str(message) and (cut := mend_cache()):
            text = f"{cut[0]} was cut short, by a kill say: it is removed, and compiled once more"
            print(f"kltrust: note: {text}", file=sys.stderr)
        else:
            otherwise(message, category, *place)

    return show


def text(argument: str | None) -> str | None:
    """A name from the command line: UTF-8, also where the locale is not."""
    return None if argument is None else os.fsencode(argument).decode("utf-8", "replace")


def explain(error: Exception, arguments: Sequence[str] = ()) -> str:
    """The message for an error that ends the command of these ``arguments``."""
    if isinstance(error, UnicodeEncodeError):
        letters = error.object[error.start : error.end]
        return f"this locale has no {letters!a}: set PYTHONUTF8=1 and start again"
    if not isinstance(error, OSError):
        notes = [n for n in getattr(error, "__notes__", ()) if "JAX_TRACEBACK_FILTERING" not in n]
        if (places := getattr(error, "places", None)) is not None:  # a NoRunError
            notes.append(f"try {_command_with(arguments, *places)}")
        return "; ".join([str(error), *notes])
    if error.filename is None:  # the library's errors name their file
        with contextlib.suppress(OSError):  # else Python would try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"can't write to standard output: {error.strerror}"
    from kltrust.experiments.store.files import explain

    return f"{error.filename}: {explain(error)}"


def _command_with(arguments: Sequence[str], folder: Path, inner: Path) -> str:
    """The command with a run folder ``inner`` in place of the ``folder`` that holds it."""
    there = [os.path.join(a, inner.name) if Path(a).absolute() == folder else a for a in arguments]
    return shlex.join(["kltrust", *there])
