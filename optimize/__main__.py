"""`python -m optimize NAME [options of spri tune]`: run the recipe optimize/NAME.toml; without a name, list them."""

from __future__ import annotations

import sys
from pathlib import Path

from spri_dspy import cli
from spri_dspy.errors import UnknownNameError

SHELF = Path(__file__).parent


def recipes() -> dict[str, Path]:
    """The recipes on this shelf, by name."""
    return {path.stem: path for path in sorted(SHELF.glob("*.toml"))}


def main(argv: list[str]) -> int:
    """Run the named recipe; exits with the exit code of `spri tune`, or returns that of a mistake in the name."""
    known = recipes()
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write("python -m optimize NAME [options of spri tune]\n\n")
        for name, path in known.items():
            first = path.read_text("utf-8").splitlines()[0].lstrip("# ")
            sys.stdout.write(f"  {name:14}{first}\n")
        return 0
    if argv[0] not in known:
        sys.stderr.write(f"optimize: {UnknownNameError('recipe', argv[0], known)}\n")
        return UnknownNameError.exit_code
    sys.argv = ["spri", "tune", str(known[argv[0]]), *argv[1:]]
    cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
