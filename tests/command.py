"""Run the command line: in this process, which is quick, or in one of its own."""

import io
import json
import logging
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from spri_dspy import cli

KEYLESS = "openai/gpt-4o-mini needs a key: set OPENAI_API_KEY in the environment"
MAIN = "from spri_dspy.cli import main; main()"


def spri(*arguments):
    """One command in this process: exit code, stdout, stderr. Warnings go to pytest's log, not to stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    logger = logging.getLogger("spri_dspy")
    level, code = logger.level, None
    with (
        patch.object(sys, "argv", ["spri", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        finally:
            logger.setLevel(level)
    shown = []
    for stream in (out, err):
        stream.flush()
        shown.append(stream.buffer.getvalue().decode())
    return code, *shown


def process(*arguments, code=MAIN, **settings):
    """The same as a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **settings)


def assert_refused(found, code, *said):
    """One line on stderr that says these things, nothing on stdout, and the exit code."""
    exit_code, out, err = found
    assert exit_code == code, err
    assert out == ""
    assert err.startswith("spri: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in said:
        assert part in err, err


def files(folder):
    """Every file under a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(path, *rows):
    """A JSON-lines file of rows, or of lines as they are."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
