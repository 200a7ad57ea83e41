"""On which line of a TOML file a value stands, so that an error can say it.

The standard library keeps no positions, and neither does the style-preserving reader TOML Kit. This scans the text of
a file that was read before: what is not TOML is not looked for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]  # keys and places in lists, from 0

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#[^\n]*)"""
    r"""|(?P<newline>\n)"""
    r'''|(?P<text>"""(?:\\.|[^\\])*?""""{0,2}(?!")|\'\'\'.*?\'\'\'\'{0,2}(?!\')|"(?:\\.|[^"\\])*"|'[^']*')'''
    r"""|(?P<mark>[][{}=,.])"""
    r"""|(?P<bare>[^]\s\[{}=,."'#]+)""",
    re.DOTALL,
)


def toml_lines(text: str) -> Mapping[Path, int]:
    """Return the line of each key, table and entry of a list, counted from 1.

    >>> lines = toml_lines('name = "x"\\n[[plans]]\\ntiers = [\\n  { up_to = 1 },\\n  { up_to = 2 },\\n]\\n')
    >>> lines["plans", 0], lines["plans", 0, "tiers", 1, "up_to"]
    (2, 5)
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of a path, else that of the nearest one around it.

    >>> line_of({("a",): 3}, ("a", "missing", 2))
    3
    """
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or ""
            if kind != "blank":
                self._tokens.append((kind, match.group(), line))
            line += match.group().count("\n")
        self._tokens.append(("end", "", line))
        self._next = 0
        self._list_lengths: dict[Path, int] = {}
        self._lines: dict[Path, int] = {}

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._kind() != "end":
            if self._kind() == "newline":
                self._next += 1
            elif self._take("["):
                table = self._header()
            else:
                self._key_and_value(table)
        return self._lines

    def _kind(self) -> str:
        return self._tokens[self._next][0]

    def _take(self, mark: str) -> bool:
        if self._tokens[self._next][:2] != ("mark", mark):
            return False
        self._next += 1
        return True

    def _header(self) -> Path:
        is_list = self._take("[")
        line = self._tokens[self._next][2]
        *around, last = self._key()
        self._take("]")
        if is_list:
            self._take("]")
        path: Path = ()
        for part in around:
            path = self._entered((*path, part), line)
        path = (*path, last)
        if is_list:
            self._list_lengths[path] = self._list_lengths.get(path, 0) + 1
        return self._entered(path, line)

    def _entered(self, path: Path, line: int) -> Path:
        """Note the line of a table, and go on in the newest entry where the path is a list of tables."""
        self._lines.setdefault(path, line)
        if path not in self._list_lengths:
            return path
        path = (*path, self._list_lengths[path] - 1)
        self._lines.setdefault(path, line)
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            kind, text, _ = self._tokens[self._next]
            self._next += 1
            parts.append(tomllib.loads(f"key = {text}")["key"] if kind == "text" else text)
            if not self._take("."):
                return parts

    def _key_and_value(self, table: Path) -> None:
        line = self._tokens[self._next][2]
        path = table
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._take("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._list(path)
        elif self._take("{"):
            while not self._take("}"):
                if self._kind() == "newline" or self._take(","):
                    self._next += self._kind() == "newline"
                elif self._kind() == "end":
                    return
                else:
                    self._key_and_value(path)
        else:
            while self._kind() in ("bare", "text") or self._tokens[self._next][1] == ".":
                self._next += 1

    def _list(self, path: Path) -> None:
        place = 0
        while not self._take("]"):
            if self._kind() == "end":
                return
            if self._kind() == "newline":
                self._next += 1
            elif not self._take(","):
                self._lines[(*path, place)] = self._tokens[self._next][2]
                self._value((*path, place))
                place += 1
