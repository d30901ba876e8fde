"""The page: what the parts found, put into one HTML file that asks nobody for anything.

Everything that a model or a data set wrote is escaped: by Jinja in the page, and as JSON in a script element that is
data. A Content-Security-Policy admits the one script and the one style sheet, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any

from spri_dspy.report.html import plots
from spri_dspy.strict_json import to_text

PACKED_FROM = 2_000_000
"""Characters of data from which they are packed (gzip in base64); shorter data can be read in the file."""

_ENDS = {"accepted": "good", "exhausted": "warn", "unscored": "bad"}


def render(view: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        view: what stands in the page as it is; see page.html.j2.
        data: the examples, for the script.
    """
    script, style = _file("diff.js") + _file("page.js"), _file("page.css")
    text = _escaped(to_text(data))
    packed = len(text) >= PACKED_FROM
    if packed:
        text = base64.b64encode(gzip.compress(to_text(data).encode("utf-8", "replace"), 6, mtime=0)).decode()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _template()
        .render(
            view={"agree": None, **view},
            data=text,
            packed=packed,
            script=script,
            style=style,
            policy=policy,
            end_classes=_ENDS,
        )
        .encode("utf-8", "replace")
        .decode()
    )


def _escaped(json: str) -> str:
    """JSON in which nothing ends a script element or begins a comment."""
    return json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources.files(__package__ or "") / name).read_text("utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    drawn = ("strip", "shares", "scatter", "calibration", "search")
    made.globals |= {name: _markup(getattr(plots, name), Markup) for name in drawn}
    made.globals |= {"reach": plots.reach, "number": plots.number, "raw": Markup}
    made.filters["count"] = lambda value: f"{value:,}"
    made.filters["parts"] = lambda rows: [
        (name, list(part)) for name, part in groupby(rows, key=lambda row: row["criterion"])
    ]
    made.filters["combine_difference"] = lambda row: {**row, "value": row["difference"]}
    made.filters["splits"] = lambda parts: [(f"{name} split", f"{n:,} examples") for name, n, _ in parts]
    return made.from_string(_file("page.html.j2"))


def _markup(draw: Any, markup: Any) -> Any:
    return lambda *given, **more: markup(draw(*given, **more))
