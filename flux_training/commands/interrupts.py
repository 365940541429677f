"""Handles Ctrl-C at any moment. Imports only the standard library, because an import may be what was interrupted."""

from collections.abc import Iterator

EXIT_INTERRUPTED = 130
STOPPED = "\nstopped; nothing is lost: run the same command to continue"


def is_interrupt(error: BaseException) -> bool:
    """Whether it comes from Ctrl-C. Some libraries raise an error of their own, with the interrupt as its cause or only in its text."""
    return any(
        isinstance(one, KeyboardInterrupt) or KeyboardInterrupt.__name__ in str(one) for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
