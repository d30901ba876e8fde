"""Where the real research data lies, for tests that read it in place and skip where it is absent."""

import json
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SPRI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def data_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the research data file {name} is not here; set SPRI_TEST_DATA")
    return path


def data_files(pattern):
    """Every file of a pattern; one parameter that skips where there is none."""
    missing = pytest.param(
        None, marks=pytest.mark.skip(reason=f"no research data {pattern}; set SPRI_TEST_DATA")
    )
    return sorted(DATA.glob(pattern)) or [missing]


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
