"""Run the command line in a real terminal of a given width, and tell what stood on its screen."""

import os
import pty
import re
import struct
import sys
import termios
import time
from fcntl import ioctl

from tests.command import MAIN

_CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")
LONGEST_SECONDS = 60


def in_terminal(*arguments, columns=80, code=MAIN, rows=60):
    """One command as a process whose streams are a terminal: exit code, and all that was written to it."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm", "COLUMNS": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        os.environ.pop("COLUMNS")
        ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-c", code, *map(str, arguments)])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    parts, until = [], time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), b"".join(parts).decode()


def on_screen(written, columns=80):
    """The lines that stand there in the end; what is wider than the terminal goes on in the next line."""
    lines, row, column = [[]], 0, 0
    for found in _CONTROL.finditer(written):
        number, letter, is_return, is_feed, text = found.groups()
        if is_return:
            column = 0
        elif is_feed:
            row += 1
        elif letter == "A":
            row = max(0, row - int(number or 1))
        elif letter == "K":
            lines[row] = [] if number == "2" else lines[row][:column]
        for character in text or "":
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = character
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
