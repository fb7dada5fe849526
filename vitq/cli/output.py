"""Output that is full, closed or of few signs never costs a result."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console

# How signs are written where the encoding of the output lacks them.
_PLAIN = {
    "−": "-", "–": "-", "±": "+-", "≤": "<=", "≥": ">=", "×": "x", "→": "->", "…": "...", "·": "-", "√": "sqrt",
    "²": "^2", "⁶": "^6", "⁹": "^9", "Δ": "delta",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


codecs.register_error("vitq-plain", _plain)


def write_any_sign() -> None:
    """Standard output and error write every text, in an encoding that lacks some signs with others in their place; one
    that was closed before we began (`>&-`, some services) takes everything and keeps nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
            continue
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="vitq-plain")


def is_full(error: OSError) -> bool:
    """Whether an error is of standard output, which takes nothing more: a full disk behind it, a quota."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return False
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


# The first error of each standard stream that could not take what was written.
_LOST: dict[str, OSError] = {}


def lost() -> OSError | None:
    """Why standard output lacks something, None where it has all. Asked once, at the end of a command."""
    return _LOST.pop("stdout", None)


class _LossyStream:
    """A standard stream that drops what it cannot write: runs go on, and the command says so at its end."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(getattr(sys, self._name), attribute)

    def write(self, text: str) -> int:
        return self._try("write", text) or len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, what: str, *arguments: str) -> Any:
        try:
            return getattr(getattr(sys, self._name), what)(*arguments)
        except BrokenPipeError:
            raise  # the reader wants no more: the command ends
        except OSError as error:
            _LOST.setdefault(self._name, error)
            return None


def console(stderr: bool = False) -> Console:
    """Rich's console on a standard stream, on which a full disk stops no sweep."""
    from rich.console import Console

    return Console(file=cast(IO[str], _LossyStream("stderr" if stderr else "stdout")))


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """A line as it is: no markup, no colours of its own, never broken."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
