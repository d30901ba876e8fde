"""The seeds and examples written for this project: complete, consistent, and our own words.

It reads the jsonl files only, nothing of the package's code. It does not judge how good the texts are.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spri_dspy"
SHARED = Path(os.environ.get("SPRI_TEST_DATA") or ROOT.parent / "shared" / "data")

# Ids as in the public evaluation set, so that seeds and evaluation posts join on them.
DIMENSIONS = {
    1: "self-responsibility",
    4: "problem-focused_coping",
    6: "attentional_activity",
    7: "emotion-focused_coping",
    8: "self-controllable",
    23: "consistency_with_internal_values",
}
CAPABILITIES = {
    "grounding",
    "instruction_following",
    "planning",
    "reasoning",
    "refinement",
    "safety",
    "theory_of_mind",
    "tool_usage",
}
RUBRIC_KEYS = {"criteria", *(f"score{level}_description" for level in range(1, 6))}
SHAPES: dict[str, tuple[int, set[str]]] = {
    "seeds/default.jsonl": (6, {"id", "name", "principles"}),
    "seeds/flask.jsonl": (6, {"skill", "capabilities", "rubric"}),
    "seeds/mt_bench.jsonl": (1, {"rubric"}),
    "seeds/reappraisal.jsonl": (6, {"dimension_id", "dimension", "group", "aim", "post", "principles"}),
    "seeds/reappraisal_dimensions.jsonl": (
        6,
        {"dimension_id", "dimension", "aim", "standards", "oracle_principles"},
    ),
    "seeds/rubrics.jsonl": (24, {"id", "group", "instruction", "principles"}),
    "seeds/self_align.jsonl": (16, {"id", "rule"}),
    "seeds/self_instruct.jsonl": (8, {"instruction", "input", "output"}),
    "seeds/sft.jsonl": (6, {"instruction", "input", "principles", "response"}),
    "examples/reappraisal.jsonl": (12, {"id", "dimension_id", "dimension", "aim", "post"}),
    "examples/rubrics.jsonl": (
        8,
        {"id", "capability", "instruction", "reference_answer", "rubric", "responses"},
    ),
    "examples/sft.jsonl": (10, {"id", "instruction", "input", "response"}),
}
MAY_BE_EMPTY = {"input"}
RUN = 8
"""Words in a row that count as copied."""


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PACKAGE / name).read_text(encoding="utf-8").splitlines()]


def word_count(text: str) -> int:
    return len(text.split())


def texts(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def runs_of(text: str) -> Iterator[tuple[str, ...]]:
    """All runs of RUN words, case and punctuation ignored."""
    words = re.findall(r"\w+", text.casefold())
    return zip(*(words[start:] for start in range(RUN)), strict=False)


def runs_in(values: object) -> set[tuple[str, ...]]:
    return {run for text in texts(values) for run in runs_of(text)}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_file_has_its_rows_and_exactly_its_fields(name):
    count, fields = SHAPES[name]
    found = rows(name)
    assert len(found) == count
    for number, row in enumerate(found, start=1):
        assert set(row) == fields, f"{name}:{number}"
        blank = {key for key, value in row.items() if key not in MAY_BE_EMPTY and not value}
        assert not blank, f"{name}:{number}"
        stray = [text for text in texts(row) if text != text.strip()]
        assert not stray, f"{name}:{number}"


def test_every_jsonl_file_in_the_two_folders_is_checked_here():
    found = {
        f"{path.parent.name}/{path.name}"
        for path in PACKAGE.glob("*/*.jsonl")
        if path.parent.name in {"seeds", "examples"}
    }
    assert found == set(SHAPES)


@pytest.mark.parametrize("name", sorted(name for name, (_, fields) in SHAPES.items() if "id" in fields))
def test_ids_are_unique_and_speak_kebab_or_snake_case(name):
    ids = [row["id"] for row in rows(name)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", one) for one in ids)


def test_example_ids_differ_from_seed_ids_in_rubrics():
    assert not {row["id"] for row in rows("examples/rubrics.jsonl")} & {
        row["id"] for row in rows("seeds/rubrics.jsonl")
    }


@pytest.mark.parametrize("name", ["seeds/reappraisal.jsonl", "seeds/default.jsonl", "seeds/sft.jsonl"])
def test_seed_principles_stay_under_128_words_with_one_idea_a_line(name):
    for row in rows(name):
        lines = row["principles"].split("\n")
        assert word_count(row["principles"]) < 128, row["principles"]
        assert 3 <= len(lines) <= 6, row["principles"]
        assert [line.split(". ")[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]


@pytest.mark.parametrize(("name", "each"), [("reappraisal_dimensions", 1), ("reappraisal", 1)])
def test_reappraisal_seeds_cover_every_dimension(name, each):
    counts = Counter((row["dimension_id"], row["dimension"]) for row in rows(f"seeds/{name}.jsonl"))
    assert counts == dict.fromkeys(DIMENSIONS.items(), each)


def test_reappraisal_examples_cover_every_dimension_twice():
    counts = Counter((row["dimension_id"], row["dimension"]) for row in rows("examples/reappraisal.jsonl"))
    assert counts == dict.fromkeys(DIMENSIONS.items(), 2)


@pytest.mark.parametrize("name", ["seeds/reappraisal.jsonl", "examples/reappraisal.jsonl"])
def test_reappraisal_aims_are_those_of_their_dimension(name):
    aims = {row["dimension_id"]: row["aim"] for row in rows("seeds/reappraisal_dimensions.jsonl")}
    assert all(row["aim"] == aims[row["dimension_id"]] for row in rows(name))


def test_reappraisal_seed_groups_are_their_dimensions():
    assert all(row["group"] == row["dimension"] for row in rows("seeds/reappraisal.jsonl"))


def test_reappraisal_texts_keep_their_lengths():
    for row in rows("seeds/reappraisal_dimensions.jsonl"):
        assert 60 <= word_count(row["oracle_principles"]) <= 120
        assert 3 <= len(row["standards"].split("\n")) <= 5
    assert all(80 <= word_count(row["post"]) <= 160 for row in rows("seeds/reappraisal.jsonl"))
    assert all(60 <= word_count(row["post"]) <= 180 for row in rows("examples/reappraisal.jsonl"))


def test_rubric_files_cover_every_capability():
    seeds = Counter(row["group"] for row in rows("seeds/rubrics.jsonl"))
    examples = Counter(row["capability"] for row in rows("examples/rubrics.jsonl"))
    mapped = Counter(name for row in rows("seeds/flask.jsonl") for name in row["capabilities"])
    assert seeds == dict.fromkeys(CAPABILITIES, 3)
    assert examples == dict.fromkeys(CAPABILITIES, 1)
    assert mapped == dict.fromkeys(CAPABILITIES, 1)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("seeds/rubrics.jsonl", "principles"),
        ("seeds/flask.jsonl", "rubric"),
        ("seeds/mt_bench.jsonl", "rubric"),
        ("examples/rubrics.jsonl", "rubric"),
    ],
)
def test_rubrics_have_criteria_and_five_different_levels(name, field):
    for row in rows(name):
        assert set(row[field]) == RUBRIC_KEYS
        assert len(set(row[field].values())) == len(RUBRIC_KEYS)
        assert all(text.strip() for text in row[field].values())


def test_scored_responses_are_three_of_clearly_different_quality():
    for row in rows("examples/rubrics.jsonl"):
        scores = [one["human_score"] for one in row["responses"]]
        assert all(set(one) == {"response_source", "response", "human_score"} for one in row["responses"])
        assert len({one["response_source"] for one in row["responses"]}) == len(scores) == 3
        assert all(one["response"].strip() for one in row["responses"])
        assert 1 <= min(scores) <= max(scores) - 2 <= 3  # so that every capability has a correlation


@pytest.mark.parametrize(
    ("seeds", "examples", "field"),
    [
        ("reappraisal", "reappraisal", "post"),
        ("rubrics", "rubrics", "instruction"),
        ("sft", "sft", "instruction"),
    ],
)
def test_no_example_repeats_a_seed(seeds, examples, field):
    of_seeds = runs_in([row[field] for row in rows(f"seeds/{seeds}.jsonl")])
    of_examples = runs_in([row[field] for row in rows(f"examples/{examples}.jsonl")])
    assert not of_seeds & of_examples


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data (SPRI_TEST_DATA)")
def test_no_run_of_eight_words_occurs_in_the_shared_data():
    own = runs_in([rows(name) for name in SHAPES])
    seen: set[str] = set()
    copied: dict[tuple[str, ...], str] = {}
    for path in sorted(SHARED.rglob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                fresh = set(texts(json.loads(line))) - seen
                seen |= fresh
                for text in fresh:
                    copied |= dict.fromkeys(own.intersection(runs_of(text)), path.name)
    assert seen, f"no rows under {SHARED}"
    assert not copied
