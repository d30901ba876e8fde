"""`python -m benchmarks NAME [options]`: run one benchmark; without a name, list them.

A benchmark is a module of this folder with `main(argv) -> int`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

from spri_dspy.errors import SpriError, UnknownNameError


def _names() -> dict[str, str]:
    """Runnable modules and the first line of what they say of themselves."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        path = Path(__file__).parent / f"{module.name}.py"
        if path.is_file() and "\ndef main(" in (text := path.read_text("utf-8")):
            found[module.name] = text.split('"""', 2)[1].splitlines()[0]
    found.pop("__main__", None)
    return found


def main(argv: list[str]) -> int:
    """Run the named benchmark; its exit code."""
    names = _names()
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write("python -m benchmarks NAME [--help]\n\n")
        sys.stdout.writelines(f"  {name:14}{line}\n" for name, line in sorted(names.items()))
        return 0
    try:
        if argv[0] not in names:
            raise UnknownNameError("benchmark", argv[0], names)
        return importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:])
    except SpriError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
