"""Patterns that are compiled on first use: few answers need all of them, and a process that judges captions would pay for them at its start."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import cast


class _LazyPattern:
    """The methods of a compiled pattern that this package uses."""

    def __init__(self, source: str, flags: int, needs: tuple[str, ...]) -> None:
        self.pattern = source
        self._flags = flags
        self._needs = needs

    def _cannot_match(self, text: str) -> bool:
        if not self._needs:
            return False
        folded = text.casefold()
        return not any(needed in folded for needed in self._needs)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, self._flags)

    def search(self, text: str, *span: int) -> re.Match[str] | None:
        return None if self._cannot_match(text) else self._compiled.search(text, *span)

    def match(self, text: str, *span: int) -> re.Match[str] | None:
        return None if self._cannot_match(text) else self._compiled.match(text, *span)

    def fullmatch(self, text: str, *span: int) -> re.Match[str] | None:
        return None if self._cannot_match(text) else self._compiled.fullmatch(text, *span)

    def findall(self, text: str) -> list[str]:
        return self._compiled.findall(text)

    def finditer(self, text: str, *span: int) -> Iterator[re.Match[str]]:
        return iter(()) if self._cannot_match(text) else self._compiled.finditer(text, *span)

    def split(self, text: str, maxsplit: int = 0) -> list[str | None]:
        return self._compiled.split(text, maxsplit)

    def sub(self, new: str | Callable[[re.Match[str]], str], text: str, count: int = 0) -> str:
        return text if self._cannot_match(text) else self._compiled.sub(new, text, count)


def compile_later(source: str, flags: int = 0, needs: tuple[str, ...] = ()) -> re.Pattern[str]:
    """As `re.compile`, on first use. `needs`: each text that the pattern matches has one of these, in small letters."""
    return cast("re.Pattern[str]", _LazyPattern(source, flags, needs))
