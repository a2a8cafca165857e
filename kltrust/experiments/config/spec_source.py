"""The text of a specification: finds the line of a key, for error messages."""

from __future__ import annotations

import contextlib
import functools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from kltrust.checks import nearest, unknown

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where something stands in a document: keys, and indices into arrays of tables."""


_MOST_TRIES = 50
"""The most lines within one value that may look like keys: each costs a parse."""
_TABLE = re.compile(r"\s*\[\[?[^\[\],=]+\]\]?\s*(#.*)?")


class Source(NamedTuple):
    """The text of a specification or a preset, to find lines in.

    Attributes:
        name: its name in errors.
        text: all of it, or "" where it was no text.
        entries: the algorithms of each of its [[experiments]], for errors.
    """

    name: str
    text: str
    entries: tuple[str, ...] = ()

    @staticmethod
    def of_file(path: str | Path, what: str) -> Source:
        """Reads a UTF-8 file, with or without a byte-order mark; errors call it ``what``.

        Raises:
            ValueError: names the file.
        """
        try:
            return Source(str(path), Path(path).read_text("utf-8-sig"))
        except OSError as error:
            raise ValueError(f"can't read the {what} {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the {what} {path} is not UTF-8 ({error}): save it as such"
            ) from error

    def document(self) -> dict[str, Any]:
        """All of it as plain data.

        Raises:
            ValueError: names file and line.
        """
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            # Its message ends with "(at line 9, column 5)", or "(at end of document)".
            at = re.search(r"at line (\d+)", str(error))
            line = at[1] if at else len(self.text.splitlines())
            raise ValueError(f"{self.name}:{line}: not TOML: {error}") from error

    def error(self, key_path: KeyPath, message: str) -> ValueError:
        """``FILE:LINE: [[experiments]] N (ALGORITHMS): message``, with what there is of these.

        N counts from 1. There is no line without a text, and no N outside of [[experiments]].
        """
        line = f":{line_of(self.text, key_path)}" if self.text else ""
        entry = ""
        if self.entries and key_path[:1] == ("experiments",) and len(key_path) > 1:
            number = int(key_path[1])
            entry = f" [[experiments]] {number + 1} ({self.entries[number]}):"
        return ValueError(f"{self.name}{line}:{entry} {message}")

    def blame(self, key_paths: dict[str, KeyPath], error: ValueError) -> ValueError:
        """The error with the line of the setting that its message names."""
        message = str(error)
        words = set(re.findall(r"[\w.]*\w", message))
        named = [name for name in reversed(key_paths) if name in words]
        named = named or [name for name in reversed(key_paths) if name.partition(".")[2] in words]
        return self.error(key_paths[max(named, key=len, default="")], message)

    def expect_keys(
        self, key_path: KeyPath, table: Any, known: tuple[str, ...] | None = None
    ) -> None:
        """Refuses a value that is no table, and keys not in ``known``; None allows every key."""
        what = ".".join(str(part) for part in key_path if isinstance(part, str))
        if not isinstance(table, dict):
            raise self.error(key_path, f"{what} must be a table, got {table!r}")
        for key in table if known is not None else ():
            if known is not None and key not in known:
                message = unknown(f"key in {what}" if what else "section", key, list(known))
                raise self.error((*key_path, key), message)


def files_like(path: Path, names: Sequence[str] = ()) -> str:
    """The end of an error about a file that is not there: the nearest TOML file of its folder.

    ``names`` may stand in place of a path: the nearest can be one of these, and all are listed.
    """
    known = {file.stem: str(file) for file in path.parent.glob("*.toml")}
    known |= {name: name for name in names}
    near = nearest(path.stem, sorted(known), 0.6)
    hint = f": did you mean {known[near[0]]}?" if near else ""
    others = f" Known are {', '.join(names)}, and paths of TOML files" if names else ""
    return (hint or "." * bool(others)) + others


def line_of(text: str, key_path: KeyPath) -> int:
    """The line (from 1) where the key at ``key_path`` begins, or the nearest table around it.

    tomllib keeps no positions. But lines 1 to n are a valid document, unless line n is within a
    value. The key begins on the line after the longest such document that lacks it.
    """
    lines = text.splitlines()
    # Only documents that end before a line that may begin a key or a table are needed.
    ends = [n for n, line in enumerate(lines) if "=" in line or _TABLE.fullmatch(line)]
    ends.append(len(lines))

    @functools.cache
    def document(i: int) -> tuple[int, Any]:
        """The longest document up to the i-th of the ends, and its length."""
        for n in ends[max(i - _MOST_TRIES, 0) : i + 1][::-1]:
            with contextlib.suppress(tomllib.TOMLDecodeError):
                return n, tomllib.loads("\n".join(lines[:n]))
        return 0, {}

    while key_path:
        # Once a document holds the key, all longer ones do: bisect for the first that does.
        lacks, holds = 0, len(ends)
        while holds - lacks > 1:
            middle = (lacks + holds) // 2
            held = _holds(document(middle)[1], key_path)
            lacks, holds = (lacks, middle) if held else (middle, holds)
        if holds < len(ends):
            return document(lacks)[0] + 1
        key_path = key_path[:-1]
    return 1


def _holds(document: Any, key_path: KeyPath) -> bool:
    for part in key_path:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
