"""What reaches the terminal: results on stdout, talk on stderr, and nothing in either that would command it.

Ids, field and file names, errors of servers and answers of LMs are text of others. Everything printed passes
`printable`, be it a line, JSON or what rich lays out; markup is off, so that `[red]` in a text is `[red]`.
It knows text and streams; it knows no run.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from spri_dspy.errors import PrerequisiteError
from spri_dspy.redaction import redact
from spri_dspy.strict_json import to_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

WIDTH = 120
"""Columns where there is no terminal."""

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters less tab and line feed; 9b alone starts a command
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"  # what turns the reading direction or breaks lines
    "\ud800-\udfff]"  # halves of surrogate pairs
)


def printable(text: str) -> str:
    """Text without what would command the terminal; each such character becomes U+FFFD."""
    return _UNSAFE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Printable text in one line: a file's name or a server's error may hold line breaks."""
    return printable(" ".join(text.split()))


def say(*lines: str, who: str = "spri", stream: TextIO | None = None) -> None:
    """Talk on stderr, or on a stream that was stderr before, one line each, without keys."""
    shown = stream or sys.stderr
    for line in lines:
        text = f"{who}: {one_line(redact(line))}"
        shown.write((text if line.startswith("next: ") else _in_words(text, shown)) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Results on stdout, as lines."""
    for line in lines:
        sys.stdout.write(_in_words(printable(line), sys.stdout) + "\n")


def _in_words(line: str, stream: TextIO) -> str:
    """The line, broken between words where a terminal would break it within one; a command to copy is left whole."""
    if not stream.isatty():
        return line
    width = shutil.get_terminal_size().columns
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    broken = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return line if len(line) <= width else "\n".join(broken)


def print_json(value: Any) -> None:
    """A result on stdout as one line of JSON.

    What would command a terminal is escaped, which changes no value; so are all other letters where the output is
    not UTF-8.
    """
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = to_text(value, ascii_only=not is_utf8)
    sys.stdout.write(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_parts(parts: Iterable[RenderableType]) -> None:
    """Results on stdout, as rich lays them out."""
    shown = console()
    for part in parts:
        shown.print(part)


def stop_printing() -> None:
    """Drop what cannot be printed any more, so that the end of Python does not try once more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave_at_once(line: str, code: int) -> NoReturn:
    """End the process with a line on stderr, from wherever it stands, be it in the middle of a print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shown = f"spri: {line}\n"
    with contextlib.suppress(OSError):
        if os.isatty(2):
            shown = f"\x1b[?25h\n{shown}"  # a progress bar hides the cursor
        os.write(2, shown.encode())
    os._exit(code)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Say in one line that what is printed in the block finds no room.

    Raises:
        PrerequisiteError: stdout is full or broken.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename is not None:
            raise
        stop_printing()
        raise PrerequisiteError(
            f"the output cannot be written: {error.strerror}; what was run before is kept"
        ) from None


def console(*, stderr: bool = False) -> Console:
    """A console of rich's that shows text of others as it is, and obeys none of it."""
    from rich.console import Console

    class Shown(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                safe = segment.text if segment.control else printable(segment.text)
                yield segment if safe == segment.text else segment._replace(text=safe)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH
    return Shown(file=stream if stderr else None, highlight=False, emoji=False, markup=False, width=width)


def claim_streams() -> bool:
    """Make stdout and stderr fit to be written to; False if stdout is closed, so that results have no place to go.

    A closed descriptor would be given to the next file that is opened, and what is printed would end up in it.
    """
    is_open = sys.stdout is not None
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", line_buffering=True)
            setattr(sys, name, stream)
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:  # what a terminal cannot show is escaped, not a crash
            reconfigure(errors="backslashreplace")
    return is_open


def show_log_lines(verbose: bool) -> None:
    """Show this package's own log lines on stderr: warnings, and with `verbose` every call. Nobody else's.

    Where logging is set up already, it is left as it is.
    """
    ours = logging.getLogger("spri_dspy")
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if logging.root.handlers:
        return
    logging.root.addHandler(logging.NullHandler())  # or Python prints warnings of others by itself
    ours.addHandler(_LogLines())
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):  # these bring handlers of their own
        logging.getLogger(name).disabled = True
    warnings.simplefilter(
        "ignore"
    )  # of others too: coroutines that LiteLLM leaves behind when it is interrupted


def silence_dspy() -> None:
    """Keep DSPy's log lines off the screen, where ours are shown; it sets up its own when it is imported."""
    if any(isinstance(handler, _LogLines) for handler in logging.getLogger("spri_dspy").handlers):
        import dspy

        dspy.disable_logging()


class _LogLines(logging.Handler):
    """Writes each record as one line to stderr as it is at that moment: a progress bar may stand in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            say(record.getMessage())
