"""What the reader makes of critics' texts, and how it compares with the recorded runs."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.recordings import differences, find, fits_trace, read_judged, read_rated, trace_critiques
from spri_dspy.parsing import is_degenerate, read_choice, read_score, read_score_as_published
from tests.data import DATA, data_file, data_files


@pytest.mark.parametrize(
    ("text", "score"),
    [
        # tags
        ("Helpful and kind. [RESULT] 4", 4),
        ("Helpful.\n[RESULT]4\n\nThe principles are specific.", 4),
        ("[RESULT] 4]", 4),
        ("[RESULT] (4)", 4),
        ("[RESULT]: 4.", 4),
        ("[RESULT]\n4", 4),
        ("[RESULT] **4**", 4),
        ("[RESULT] 4. The response adheres.", 4),
        ("[SCORE] 4", 4),
        ("[Score: 4]", 4),
        ("[Score 4]", 4),
        ("[Overall score: 4/5]", 4),
        ("<score>4</score>", 4),
        ("<score>[4]</score>", 4),
        ("<score> 4.0 </score>", 4),
        ("<feedback>Fine.</feedback><score>4", 4),
        ("<SCORE>4/5</SCORE>", 4),
        ('{"feedback": "a score: 2 is harsh", "score": 4}', 4),
        ('{"overall_score": "4", "max_score": 5}', 4),
        # labels
        ("Overall Score: 4", 4),
        ("**Score:** 4 out of 5", 4),
        ("**Score**: **4/5**", 4),
        ("Score (1-5): 4", 4),
        ("Score：4", 4),
        ("### Score\n4\n\nIt is good.", 4),
        ("Score: 4.0/5.0", 4),
        ("Score = 4, because it is kind", 4),
        ("Rating: [[4]]", 4),
        ("Therefore the final score is 4.", 4),
        ("I arrive at an overall score of 4 for this.", 4),
        ("Clarity score: 2\nOverall score: 4\nDepth score: 3", 4),
        ("Clarity score: 2\nDepth score: 4", 4),
        # last line
        ("4", 4),
        ("4.", 4),
        ("4.0", 4),
        ("(4)", 4),
        ("**4**", 4),
        ("4/5", 4),
        ("Clear and kind.\n\n[4]", 4),
        ("Clear and kind.\n### 4\n", 4),
        ("Clear and kind, so I give it 4/5.", 4),
        ("Clear and kind: **4**", 4),
        # which statement wins
        ("[RESULT] 2\nAnother answer: [RESULT] 4", 2),
        ("[RESULT] 4 then again [RESULT] 4.5", 4),
        ("Score: 2\n[RESULT] 4\nScore: 3", 4),
        ("<score>4</score> and then <score>A</score><score>", 4),
        ("Use <score>[YOUR SCORE]</score>. Score: 4", 4),
        ("Score 1: poor\nScore 2: weak\nScore 3: fair\nScore 4: good\nScore 5: great\n[RESULT] 4", 4),
        ("Score: 1 poor\nScore: 2 weak\nScore: 3 fair\nScore: 4 good\nScore: 5 great\nScore: 3", 3),
        ("Write an integer on the 1-5 scale.\nScore: 4", 4),
        ("<think>At first sight [RESULT] 2</think>[RESULT] 4", 4),
    ],
)
def test_score_is_read_where_one_is_stated(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n ",
        "No number at all.",
        "on a 1-5 scale",
        "Rate it on a scale of 1 to 5",
        "Score (1-5)",
        "Score: 1-5",
        "[RESULT] (an integer between 1 and 5)",
        "4.5",
        "4,5",
        "[RESULT] 4.5",
        "[RESULT] 10",
        "[RESULT] 0",
        "[RESULT] -4",
        "[RESULT] 4-5",
        "[RESULT] 4 or 5",
        "[RESULT] 4½",
        "[RESULT] 4th",
        "[RESULT] 40%",
        "[RESULT] 4, 5",
        "[RESULT] 4.5 then again [RESULT] 4",
        "[RESULT]\n1. The first principle is vague.",
        "<score>9.6/10</score>",
        "<score>80</score>",
        "<score>\nModel A: 92/100\nModel B: 80/100\n</score>",
        "Score: 8/10",
        "Score: 4 out of 10",
        "Maximum score: 5",
        "The highest possible score is 5.",
        "A score of 5 would take more detail.",
        "Score 1: poor\nScore 2: weak\nScore 3: fair\nScore 4: good\nScore 5: great",
        "Score: 1 poor\nScore: 2 weak\nScore: 3 fair\nScore: 4 good\nScore: 5 great",
        "There are problems:\n1.",
        "clarity 3/5, depth 9/10",
        "In 2019 it was 4 degrees",
        "[RESULT] ٤",
        "12345678901234567890",
    ],
)
def test_score_is_none_where_none_is_stated(text):
    assert read_score(text) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<score>[8]</score><rationale>Good.</rationale>", 8),
        ("<score>10</score>", 10),
        ("[RESULT] 10", 10),
        ("Score: 8/10", 8),
        ("Score: 1-10", None),
        ("Score: 4/5", None),
        ("<score>11</score>", None),
    ],
)
def test_scale_up_to_ten_is_read_to_its_end(text, score):
    assert read_score(text, 1, 10) == score


@given(
    st.lists(
        st.sampled_from(["[RESULT]", "<score>", "Score:", "4", "5", "10", "4.5", "/5", "\n", "-", "is ", "("])
    )
    .map(" ".join)
    .filter(bool)
    | st.text(),
    st.integers(0, 3),
    st.integers(1, 12),
)
def test_any_text_gives_a_score_in_range_or_none(text, low, high):
    score = read_score(text, low, high)
    assert score is None or low <= score <= high
    assert read_score_as_published(text) in (None, 1, 2, 3, 4, 5)


@given(st.text(), st.lists(st.text(min_size=1), max_size=4))
def test_any_text_gives_one_of_the_choices_or_none(text, choices):
    assert read_choice(text, choices) in (None, *choices)


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        " ",
        "\n",
        "1",
        "score",
        "score:",
        "Score (",
        "overall ",
        '"score" ',
        "<score ",
        "[RESULT] ",
        "(((",
        "*",
        "4/",
    ],
)
def test_a_megabyte_is_read_in_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    read_score(text)
    read_score_as_published(text)
    read_choice(text, ["yes", "no", "minor error"])
    assert time.perf_counter() - start < 8  # a quadratic reader takes hours


@pytest.mark.parametrize(
    "piece",
    [
        'The reply is clear, and it doesn\'t blame her; "be kind", it says. ',
        "Score: 4, for it's kind. ",
        "```\n[RESULT] 5\n```\n",
        "> Score: 5\n",
        '"Score: 5" is what it says. ',
        "<<< 0123456789ab\nScore: 5\n",
    ],
)
def test_reading_grows_no_faster_than_the_text(piece):
    def seconds(length):
        text = (piece * (length // len(piece) + 1))[:length]
        clock = time.process_time
        return -clock() + (read_score(text), clock())[1]

    # Sixteen times the text: sixteen times the work if linear, 256 times if quadratic. Other work on the machine
    # slows single measurements, so the least of five pairs counts, and both sides leave a factor of four.
    pairs = [(seconds(20_000), seconds(320_000)) for _ in range(5)]
    assert min(long for _, long in pairs) < 64 * min(short for short, _ in pairs)


@pytest.mark.parametrize(
    ("text", "score"),
    [("[RESULT] 4.5", 4), ("[RESULT] 10", 1), ("[RESULT] 4]", 4), ("[RESULT] 7", None), ("Score: 4", None)],
)
def test_published_reader_takes_the_first_digit(text, score):
    assert read_score_as_published(text) == score


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Yes", "Yes"),
        ("**no**.", "No"),
        ("Minor  error", "Minor Error"),
        ("Yes, because the facts are right. There is no error.", "Yes"),
        ("No\nThe date is wrong.", "No"),
        ("The date is wrong.\n\nMinor Error", "Minor Error"),
        ("Answer: No. Yes would need a source.", "No"),
        ("<answer>Yes</answer>", "Yes"),
        ("[RESULT] no", "No"),
        ("<think>No.</think>Yes", "Yes"),
        ("Yes\n...\nNo", None),
        ("There are no errors", None),
        ("No errors were found", None),
        ("Nothing", None),
        ("", None),
    ],
)
def test_choice_is_read_only_where_it_stands_as_the_answer(text, choice):
    assert read_choice(text, ["Yes", "No", "Minor Error"]) == choice


def test_choice_prefers_the_longer_of_two_that_overlap():
    assert read_choice("Not Harmful", ["Harmful", "Not Harmful"]) == "Not Harmful"
    assert read_choice("harmful", ["Harmful", "Not Harmful"]) == "Harmful"


def test_choice_without_choices_is_none():
    assert read_choice("Yes", []) is None


@pytest.mark.parametrize("path", data_files("rubrics/judge_scores/*.jsonl"))
def test_recorded_judgements_are_read_alike_or_for_a_known_reason(path):
    rows = read_rated(path)
    listed = differences(path.stem, rows)
    assert {d.reason for d in listed} <= {
        "a score, but not in the tag that was asked for",
        "tags that differ: the recording took the first in range, we the first",
        "a fraction, on a scale of whole numbers",
    }
    whole = [r for r in rows if r.recorded is not None and r.recorded == int(r.recorded)]
    conflicts = sum(d.reason.startswith("tags") for d in listed)
    assert sum(r.read != r.recorded for r in whole) <= conflicts


def test_recorded_critiques_explain_what_the_loop_did_next():
    data_file("reappraisal/traces")
    critiques = [c for r in find(DATA / "reappraisal/traces") for c in trace_critiques(r.path)]
    assert len(critiques) > 300
    assert all(fits_trace(text, refined) for text, refined in critiques)


@pytest.mark.parametrize("path", data_files("reappraisal/judged/*.jsonl"))
def test_recorded_judge_answers_are_all_read(path):
    rows = read_judged(path)
    assert rows
    assert all(None not in (r.alignment, r.empathy, r.harmful, r.factuality) for r in rows)


# Degenerate answers

VERSE = """Hold fast to the hand that is held out to you,
Hold fast, for the river is wide,
And what you have lost will be found on the shore,
Hold fast till the turn of the tide."""
TABLE = "| post | reply | score |\n|------|-------|-------|\n" + "".join(
    f"| p{n} | yes | 4 |\n" for n in range(60)
)


@pytest.mark.parametrize(
    "text",
    [
        "[#] " * 200,
        "Here are the principles.\n\n" + "[#] " * 400,
        "Be kind to the narrator and name what happened. " * 50,
        "1. Be kind.\n" * 40,
        "a" * 400,
        "\n\n".join(["The response should be kind.\nIt should be short."] * 12),
        "\u4e00\u4e8c\u4e09" * 200,
        "Sound words at first, and then: " + "the the the " * 60 + "the th",
        "x" * 100_000 + "A whole paragraph that comes again. It has two sentences.\n" * 30,
    ],
)
def test_text_that_repeats_itself_to_its_end_is_degenerate(text):
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word",
        "Be kind. " * 4,
        VERSE,
        "\n\n".join(f"{VERSE}\n{n}" for n in range(12)),
        f"{VERSE}\n\n{VERSE}\n\n{VERSE}",
        TABLE,
        "".join(f"{n}. Name the fear of the narrator, and say why it is there.\n" for n in range(60)),
        "- yes\n" * 20,
        "A heading\n" + "=" * 80,
        "Scores: " + ", ".join(["1"] * 50),
        "".join(random.Random(0).choices("abcdefgh ", k=9000)),
        "[#] " * 200 + "\nBut then it went on: " + " ".join(f"word{n}" for n in range(300)),
    ],
)
def test_poems_lists_and_tables_are_not_degenerate(text):
    assert not is_degenerate(text)


def test_less_repetition_is_enough_in_a_text_that_was_cut_off():
    """Of a small model with little room: it would have gone on."""
    text = "Call them first. " + "It's a bad way to deal with them; " * 4
    assert is_degenerate(text[:-9], is_cut_off=True)
    assert not is_degenerate(text[:-9])
    assert not is_degenerate("Be kind. " * 4, is_cut_off=True)
    assert not is_degenerate(f"{VERSE}\n\n{VERSE}\n\nAnd", is_cut_off=True)


@pytest.mark.parametrize("unit", ["a", "ab", "[#] ", "ab" * 500, "aab" * 3000, "a" * 4000 + "b"])
def test_looking_for_repetition_takes_linear_time(unit):
    texts = [(unit * (1 + 1_000_000 // len(unit)))[:1_000_000], (unit * 9000)[:7_999] + "x"]
    start = time.process_time()
    for text in texts:
        is_degenerate(text)
    assert time.process_time() - start < 5  # a quadratic search takes hours
