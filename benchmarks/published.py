"""Published figures of the paper's tables, as they stand in published.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

SFT_SYSTEMS = (
    "oracle_response",
    "direct",
    "self_instruct",
    "self_align",
    "self_refine",
    "seed_principles",
    "spri",
)
"""Systems of table 3, in the paper's order."""

PUBLISHED_NAMES = {"direct": "direct_response"}
"""Our system names where the paper's table has another."""

REFERENCES = ("off_the_shelf", "post_trained")
"""Rows of the published table that are no system: the model untuned, and the instruct model beside its base."""


def published_sets() -> dict[str, dict[str, tuple[str, str]]]:
    """Published MC2 in percent by system and model, on Dolly and on MixInstruct; one figure where nothing was tuned."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name in (*SFT_SYSTEMS, *REFERENCES):
        for model in published()["sft"]:
            figures = model.get(PUBLISHED_NAMES.get(name, name))
            pair = figures if isinstance(figures, list) else [figures, figures]
            shown = ["-" if figure is None else f"{figure:.2f}" for figure in pair]
            found.setdefault(name, {})[model["names"][0]] = (shown[0], shown[1])
    return found


@cache
def published() -> Mapping[str, Any]:
    """All of published.toml."""
    return tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))
