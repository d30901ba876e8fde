"""Build the wheel and prove that it works where the checkout is not.

The wheel goes to dist/, then into an empty environment with nothing but the core dependencies; from a
temporary folder every module is imported, of which those for other tools may say how to install these, and
two commands are run. It knows how to install and call the package; what the package answers is the business
of the tests.

    .venv/bin/python .ci/wheel_check.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "spri_dspy"
EXAMPLE = ["run", "reappraisal", "--text", "I failed my exam and feel like a fraud.", "--json"]
IMPORT_ALL = f"""
import importlib, pkgutil, sys, {PACKAGE}
from {PACKAGE}.errors import PrerequisiteError
assert not {PACKAGE}.__file__.startswith(sys.argv[1]), "imported from the checkout"
def fail(name):
    raise
names = [m.name for m in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}.", onerror=fail)]
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except PrerequisiteError as error:  # the other tool is not here; the line says how to get it
        if not name.startswith("{PACKAGE}.integrations.") or "pip install" not in str(error):
            raise
print(len(names))
"""


def step(message: str) -> None:
    """Say on stderr what happens next."""
    print(message, file=sys.stderr, flush=True)


def pip(python: Path | str, *arguments: str) -> None:
    """Run pip, silent unless it fails."""
    command = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def build(dist: Path) -> Path:
    """Build one wheel of the checkout into `dist`, in place of older ones."""
    for old in dist.glob(f"{PACKAGE}-*.whl"):
        old.unlink()
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(dist), str(ROOT))
    (wheel,) = dist.glob(f"{PACKAGE}-*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Compare the wheel with the package folder: every source and data file, and nothing else.

    Raises:
        SystemExit: a file is missing from the wheel or does not belong in it.
    """
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if inside != wanted:
        sys.exit(f"wheel lacks {sorted(wanted - inside)}, and should not hold {sorted(inside - wanted)}")


def call(command: list[str], folder: Path) -> str:
    """Run a command in `folder` with no key, no network and a home of its own; return its stdout.

    Raises:
        SystemExit: the command fails; its output is shown.
    """
    home = folder / "home"
    home.mkdir(exist_ok=True)
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "HOME": str(home)}
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        command, cwd=folder, env=kept | settings, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{Path(command[0]).name} gave {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Build, install elsewhere, import everything, run two commands."""
    step("building the wheel")
    wheel = build(ROOT / "dist")
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step("installing it into an empty environment")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        binaries = folder / "venv" / "bin"
        pip(binaries / "python", "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
        count = call([str(binaries / "python"), "-c", IMPORT_ALL, str(ROOT) + os.sep], folder).strip()
        call([str(binaries / "spri"), "--help"], folder)
        json.loads(call([str(binaries / "spri"), *EXAMPLE], folder))
    step(f"{wheel.name}: {count} modules imported, two commands run")


if __name__ == "__main__":
    main()
