import gc
import json
import os
import random
import sys
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import leaks as benchmark
from spri_dspy.errors import LeakError, UsageError
from spri_dspy.leaks import (
    HELD_MAX_RATIO,
    HELD_MIN_SHINGLES,
    MIN_SHINGLES,
    Leak,
    Text,
    check_leaks,
    find_leaks,
)

DATA = Path(os.environ.get("SPRI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data: set SPRI_TEST_DATA")

SENTENCE = "my sister moved out in spring and i still lay the table for two every evening"


def make_texts(source, *texts):
    return [Text(f"{source}-{i}", text, source) for i, text in enumerate(texts)]


def numbered(start, n):
    """A text of `n` words that occur once, so it has n - 2 distinct shingles."""
    return " ".join(f"w{i}" for i in range(start, start + n))


def compare(left, right, **options):
    return find_leaks(make_texts("seeds", left), make_texts("test", right), **options)


def load(file, field, **where):
    with (DATA / file).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Text(str(row.get("id", row.get("dimension_id"))), row[field], file)
        for row in rows
        if all(row[key] == value for key, value in where.items())
    ]


# Exact matches


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What now?", "what NOW"),
        ("one  two\n\tthree ", "one two three"),
        ("**Why** is `it` so -- really?", "Why is it so, really"),
        ("don\u2019t", "don't"),
        ("\u201cquoted\u201d \u2014 twice\u2026", '"quoted" - twice...'),
        ("\uff37\uff48\uff59\uff1f", "why?"),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
        ("\u1f80", "\u1f88"),
        ("hy\u00adphen \u200bzero", "hyphen zero"),
        ("so happy \U0001f44d\U0001f3fd \u2764\ufe0f today", "so happy today"),
        ("\u4f60\u597d\uff0c\u4e16\u754c", "\u4f60\u597d \u4e16\u754c"),
        ("?!", " ?! "),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_texts_that_differ_in_form_only_match_exactly(left, right):
    (leak,) = compare(left, right)
    assert (leak.kind, leak.similarity) == ("exact", 1.0)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What is 12 - 4?", "What is 12 / 4?"),
        ("What is 12*4?", "What is 12%4?"),
        ("What is 12+4?", "What is 124?"),
        ("What is 6 \u00d7 2?", "What is 6 \u00f7 2?"),
        ("Is it 5 euros?", "Is it 5 \u20ac?"),
        ("Learn C", "Learn C++"),
        ("notable", "not able"),
        ("caf\u00e9", "cafe"),
        ("\u0915\u093f", "\u0915\u0940"),  # Devanagari: the same letter with two vowel signs
        ("\u0e44\u0e01\u0e48", "\u0e44\u0e01\u0e49"),  # Thai: two tone marks
        ("two three", "three two"),
        ("?!", "!!"),
        ("\U0001f600", "\U0001f622"),
        ("", ""),
        (" \n", "\t"),
        ("", "?"),
    ],
)
def test_short_texts_with_another_meaning_or_none_do_not_match(left, right):
    assert compare(left, right) == []


@given(st.text(max_size=30))
def test_any_text_matches_itself_in_another_normal_form_unless_blank(text):
    leaks = compare(text, f"\n {unicodedata.normalize('NFD', text)} ")
    assert [leak.kind for leak in leaks] == (["exact"] if text.split() else [])


# Near matches


def test_one_replaced_word_of_forty_is_near_with_the_hand_computed_similarity():
    words = numbered(0, 40).split()
    changed = " ".join([*words[:20], "other", *words[21:]])
    (leak,) = compare(numbered(0, 40), changed)
    assert leak.kind == "near"
    assert leak.similarity == 35 / 41  # 38 shingles a side, 3 of each hold the replaced word
    assert compare(numbered(0, 40), changed, threshold=0.86) == []


def test_threshold_is_reached_by_equality():
    left, right = numbered(0, 14), numbered(2, 13)  # 12 and 11 shingles, 10 shared, 13 in either
    assert [leak.similarity for leak in compare(left, right, threshold=10 / 13)] == [10 / 13]
    assert compare(left, right, threshold=10 / 13 + 1e-6) == []


def test_texts_below_the_smallest_size_match_exactly_or_not_at_all():
    enough = MIN_SHINGLES + 2
    assert [leak.similarity for leak in compare(numbered(0, enough), numbered(0, enough + 1))] == [8 / 9]
    assert compare(numbered(0, enough - 1), numbered(0, enough)) == []
    assert compare(numbered(0, enough), numbered(0, enough - 1)) == []
    assert [leak.kind for leak in compare(numbered(0, enough - 1), numbered(0, enough - 1))] == ["exact"]


def test_repeated_words_do_not_make_a_short_text_long():
    assert compare("no " * 50, "no " * 60) == []


def test_same_shingles_in_another_order_are_near_with_similarity_one():
    block, other = numbered(0, 15), numbered(50, 15)
    (leak,) = compare(f"{block} {other} {block}", f"{block} {other} {block} {other} {block}")
    assert (leak.kind, leak.similarity) == ("near", 1.0)


def test_one_changed_character_in_an_unspaced_script_is_near():
    characters = [chr(0x4E00 + 7 * i) for i in range(60)]
    changed = [*characters[:30], "\u9f98", *characters[31:]]
    (leak,) = compare("".join(characters), "".join(changed))
    assert (leak.kind, leak.similarity) == ("near", 55 / 61)


@pytest.mark.parametrize("swap", [False, True])
def test_long_text_inside_a_longer_one_is_near_up_to_three_times_its_shingles(swap):
    n_held = HELD_MIN_SHINGLES + 2
    n_longest = HELD_MAX_RATIO * HELD_MIN_SHINGLES + 2

    def found(held, holding):
        left, right = (holding, held) if swap else (held, holding)
        return [(leak.kind, leak.similarity) for leak in compare(left, right)]

    assert found(numbered(20, n_held), numbered(0, n_longest)) == [("near", 1.0)]
    assert found(numbered(20, n_held), numbered(0, n_longest + 1)) == []
    assert found(numbered(20, n_held - 1), numbered(0, 60)) == []


def test_held_text_with_some_changes_reports_its_share():
    held = f"{numbered(500, 3)} {numbered(0, 50)}"  # 51 shingles: 48 in the longer text, 3 not
    assert [leak.similarity for leak in compare(held, numbered(0, 120))] == [48 / 51]
    assert compare(held, numbered(0, 120), threshold=0.95) == []


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold must be above 0"):
        compare("a", "a", threshold=threshold)


# Agreement with comparing all pairs


def all_pairs(seeds, evaluation, threshold):
    def shingles(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    found = []
    for right in evaluation:
        for left in seeds:
            a, b = shingles(left.text), shingles(right.text)
            smaller, larger = sorted((len(a), len(b)))
            shared, either = len(a & b), len(a | b)
            if left.text == right.text and left.text:
                found.append(Leak("exact", 1.0, left, right))
            elif smaller >= MIN_SHINGLES and shared / either >= threshold:
                found.append(Leak("near", shared / either, left, right))
            elif (
                smaller >= HELD_MIN_SHINGLES
                and larger <= HELD_MAX_RATIO * smaller
                and shared / smaller >= max(0.9, 2 * threshold / (1 + threshold))
            ):
                found.append(Leak("near", shared / smaller, left, right))
    return found


@st.composite
def related_texts(draw):
    """Pieces of one stock, some with words replaced: alike often enough for every rule to apply."""
    rng = draw(st.randoms(use_true_random=False))
    stock = [rng.choice("abcdefgh") for _ in range(130)]
    texts = []
    for _ in range(draw(st.integers(0, 8))):
        start, length = rng.choice((0, 0, 5, 60)), rng.choice((0, 2, 9, 10, 11, 30, 33, 36, 60, 90, 100))
        piece = stock[start : start + length]
        for _ in range(rng.choice((0, 0, 1, 2, 4)) if piece else 0):
            piece[rng.randrange(len(piece))] = rng.choice("abcdefghxyz")
        texts.append(" ".join(piece))
    cut = draw(st.integers(0, len(texts)))
    return make_texts("left", *texts[:cut]), make_texts("right", *texts[cut:])


def test_match_is_found_when_all_that_is_rare_in_the_earlier_text_is_what_the_later_one_lacks():
    seeds = make_texts("seeds", numbered(0, 12), numbered(0, 10))
    found = find_leaks(seeds, make_texts("test", numbered(0, 10)))
    assert [(leak.left.id, leak.similarity) for leak in found] == [("seeds-0", 0.8), ("seeds-1", 1.0)]


def test_held_text_is_found_when_all_that_is_rare_in_it_is_unknown():
    seeds = make_texts("seeds", numbered(0, 100), numbered(0, 38))
    found = find_leaks(seeds, make_texts("test", f"{numbered(500, 4)} {numbered(0, 38)}"))
    assert [(leak.left.id, leak.similarity) for leak in found] == [("seeds-0", 0.9), ("seeds-1", 0.9)]


def test_matches_come_in_the_order_of_the_seeds():
    seeds = make_texts("seeds", *("same" if i in (5, 64) else f"other {i}" for i in range(70)))
    assert [leak.left.id for leak in find_leaks(seeds, make_texts("test", "same"))] == ["seeds-5", "seeds-64"]


@settings(max_examples=300, deadline=None)
@given(related_texts(), st.sampled_from([0.1, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0]))
def test_matches_agree_with_all_pairs(texts, threshold):
    left, right = texts
    assert find_leaks(left, iter(right), threshold=threshold) == all_pairs(left, right, threshold)


@settings(max_examples=100, deadline=None)
@given(related_texts())
def test_matches_do_not_depend_on_the_side(texts):
    left, right = texts
    one = {(leak.kind, leak.similarity, leak.left, leak.right) for leak in find_leaks(left, right)}
    other = {(leak.kind, leak.similarity, leak.right, leak.left) for leak in find_leaks(right, left)}
    assert one == other


# Many texts


def test_planted_leaks_are_found_among_two_thousand_texts(capsys):
    assert benchmark.main(["--texts", "2000", "--characters", "600", "--seeds", "20"]) == 0
    assert "planted 2, missed 0, false 0" in capsys.readouterr().out


def test_evaluation_texts_are_not_kept():
    writer = benchmark.Writer(random.Random(1), 2_000)
    seeds = make_texts("seeds", *(writer.text() for _ in range(5)))

    def peak(n):
        gc.collect()
        tracemalloc.start()
        assert find_leaks(seeds, (Text(str(i), writer.text(), "test") for i in range(n))) == []
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(400) < 1.5 * peak(40)


def test_shared_preamble_does_not_lead_to_comparing_all_pairs():
    writer = benchmark.Writer(random.Random(2), 400)
    preamble = " ".join([writer.text(), writer.text()])
    left = make_texts("left", *(f"{preamble} {writer.text()}" for _ in range(150)))
    right = make_texts("right", *(f"{preamble} {writer.text()}" for _ in range(150)))
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        find_leaks([], right)
        alone, calls = calls, 0
        find_leaks(left, [])
        alone, calls = alone + calls, 0
        find_leaks(left, right)
    finally:
        sys.setprofile(before)
    assert calls - alone < len(left) * len(right) / 2


# Collections


def test_every_collection_is_compared_with_every_later_one():
    collections = {
        "seeds": make_texts("seeds", "alpha", "beta"),
        "train": make_texts("train", "beta", "gamma"),
        "validation": make_texts("validation", "gamma", "delta"),
        "test": make_texts("test", "delta", "alpha", "beta", "new"),
    }
    leaks = check_leaks(collections, allow=True)
    assert [(leak.left.id, leak.right.id) for leak in leaks] == [
        ("seeds-1", "train-0"),
        ("train-1", "validation-0"),
        ("validation-1", "test-0"),
        ("seeds-0", "test-1"),
        ("seeds-1", "test-2"),
        ("train-0", "test-2"),
    ]


def test_collections_may_be_read_only_once():
    left, right = iter(make_texts("seeds", SENTENCE)), iter(make_texts("test", SENTENCE.upper()))
    assert len(check_leaks({"seeds": left, "test": right}, allow=True)) == 1


def test_duplicates_within_one_collection_are_not_leaks():
    assert check_leaks({"seeds": make_texts("seeds", "a b", "a b"), "test": make_texts("test", "c")}) == ()


def test_clean_collections_pass_with_nothing():
    assert check_leaks({"seeds": make_texts("seeds", SENTENCE), "train": [], "test": []}) == ()
    assert check_leaks({}) == ()


def test_refusal_names_the_first_five_pairs_then_counts_and_says_what_to_do():
    words = numbered(0, 40).split()
    words[20] = "other"
    seeds = make_texts("a.jsonl", numbered(0, 40), *(f"question {i}" for i in range(6)))
    test = make_texts("b.jsonl", " ".join(words), *(f"Question {i}?" for i in range(6)))
    with pytest.raises(LeakError) as caught:
        check_leaks({"seeds": seeds, "test": test})
    message = str(caught.value)
    assert "7 pairs match across seeds, test" in message
    assert "'a.jsonl-0' of 'a.jsonl' and 'b.jsonl-0' of 'b.jsonl' (near, 0.85)" in message
    assert "'a.jsonl-4' of 'a.jsonl' and 'b.jsonl-4' of 'b.jsonl' (exact, 1.00)" in message
    assert "a.jsonl-5" not in message
    assert "and 2 more" in message
    assert "--allow-leak" in message
    assert "\n" not in message


def test_refusal_of_a_single_pair_counts_no_more():
    with pytest.raises(LeakError, match=r"1 pair matches") as caught:
        check_leaks({"seeds": make_texts("s", "same"), "test": make_texts("t", "same")})
    assert "more" not in str(caught.value)


# Real data


@needs_data
def test_published_reappraisal_seeds_are_found_in_the_evaluation_set():
    seeds = load("reappraisal/seeds_6.jsonl", "post")
    leaks = find_leaks(seeds, load("reappraisal/eval_30.jsonl", "post"))
    assert {leak.left.id for leak in leaks} == {seed.id for seed in seeds}
    with pytest.raises(LeakError, match="--allow-leak"):
        check_leaks({"seeds": seeds, "test": load("reappraisal/eval_30.jsonl", "post")})


@needs_data
def test_reappraisal_pool_matches_the_evaluation_set_where_it_says_so_only():
    evaluation = load("reappraisal/eval_30.jsonl", "post")
    held_out = load("reappraisal/pool_400.jsonl", "post", in_eval=True)
    assert find_leaks(evaluation, load("reappraisal/pool_400.jsonl", "post", in_eval=False)) == []
    leaks = find_leaks(held_out, evaluation)
    assert {leak.left.id for leak in leaks} == {text.id for text in held_out}
    assert {leak.right for leak in leaks} == set(evaluation)


@needs_data
def test_published_rubric_seeds_are_found_in_the_benchmark():
    seeds = load("rubrics/seeds_24.jsonl", "input")
    leaks = find_leaks(seeds, load("rubrics/biggen_765.jsonl", "input"))
    exact = {(leak.left.id, leak.right.id) for leak in leaks if leak.kind == "exact"}
    assert exact == {(seed.id, seed.id) for seed in seeds}
    # Instances of one tool list differ in a sentence or two of about 350 words.
    near = [leak for leak in leaks if leak.kind == "near"]
    assert all(leak.left.id == "tool_usage_multi_step_1" for leak in near)
    assert all(leak.right.id.startswith("tool_usage_") for leak in near)
