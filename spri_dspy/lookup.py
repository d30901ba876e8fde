"""Find a task, system, judge or optimiser by its name: built in, installed, or in a file of the user's.

The order is: a module of our own package, an installed entry point, `path/to/file.py:NAME`. An unknown name is
answered with the menu. Nothing registers itself; a new one is a new file.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from spri_dspy.errors import DataError, UnknownNameError


def lookup(kind: str, name: str, package: str, attribute: str, *, group: str | None = None) -> Any:
    """The object that a name stands for.

    Args:
        kind: what it is, for messages ("task").
        name: as the user typed it; dashes count as underscores.
        package: where the built-in ones live, such as "spri_dspy.tasks".
        attribute: the name inside a built-in module.
        group: the entry point group; None for the package's name.

    Raises:
        UnknownNameError: nothing answers to the name.
        DataError: the file or the name in it does not exist, or the file cannot be loaded.
    """
    if ".py:" in name:
        return _from_file(kind, name)
    module = name.replace("-", "_")
    if module in _built_in(package, attribute):
        return getattr(importlib.import_module(f"{package}.{module}"), attribute)
    installed = {point.name: point for point in entry_points(group=group or package)}
    if name in installed:
        return installed[name].load()
    raise UnknownNameError(
        kind, name, {*_built_in(package, attribute), *installed}, "Or write path/to/file.py:NAME of your own"
    )


def parameters_of(make: Any) -> dict[str, inspect.Parameter]:
    """What a function takes, or a class to make an object, by name and in order; `self` is none of it.

    A class is asked through its `__init__`: the metaclass of DSPy's modules hides it from `inspect.signature`.
    """
    if not inspect.isclass(make):
        return dict(inspect.signature(make).parameters)
    return dict(list(inspect.signature(make.__init__).parameters.items())[1:])


def where_raised(error: BaseException, function: Any) -> str:
    """An error of a user's own function in one line: file, line, source, and what Python says.

    Args:
        error: as caught, with its traceback.
        function: what was called; the last line of its own file counts, not the library's that raised.
    """
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename] or frames
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if own:
        return f"{own[-1].filename}, line {own[-1].lineno}, {own[-1].line!r}: {said}"
    return f"{getattr(function, '__name__', function)} cannot be called: {said}"


def names(package: str, attribute: str, *, group: str | None = None) -> list[str]:
    """Every built-in and installed name, sorted."""
    installed = entry_points(group=group or package)
    return sorted({*_built_in(package, attribute), *(point.name for point in installed)})


def _built_in(package: str, attribute: str) -> set[str]:
    """Modules of the package that define the attribute at their top level; nothing is imported for it."""
    defines = re.compile(rf"^(?:def|class) {attribute}\b|^{attribute}\b.*=", re.MULTILINE)
    paths = (Path(folder) for folder in importlib.import_module(package).__path__)
    return {
        file.stem
        for folder in paths
        for file in folder.glob("*.py")
        if not file.name.startswith("_") and defines.search(file.read_text("utf-8"))
    }


def _from_file(kind: str, name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    if not Path(path).is_file():
        raise DataError(f"no such file for the {kind} {name!r}: {path}")
    # A name of its own among the loaded modules, where dataclasses and pickle look for it: random.py is not `random`.
    spec = importlib.util.spec_from_file_location(f"{Path(path).stem} at {Path(path).absolute()}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever is wrong in a user's file is theirs to see, in one line
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else path
        raise DataError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        public = sorted(n for n in vars(module) if not n.startswith("_"))
        raise UnknownNameError(f"name in {path}", attribute, public)
    return getattr(module, attribute)
