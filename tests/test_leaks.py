import gc
import json
import os
import random
import sys
import time
import tracemalloc
import unicodedata
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import leaks as benchmark
from benchmarks.text_edits import EDITS, LOOK_ALIKES
from spri_dspy.errors import LeakError, UsageError
from spri_dspy.leaks import Text, check_leaks, find_leaks
from spri_dspy.leaks.comparing import alike, in_order

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


# Look-alike letters


@pytest.mark.parametrize("text", ["Is it so?", "What happens if you eat a whole watermelon seed?", SENTENCE])
def test_look_alike_letters_are_named(text):
    written = "".join(LOOK_ALIKES.get(letter, letter) for letter in text)
    (leak,) = compare(text, written)
    assert (leak.kind, leak.similarity) == ("exact", 1.0)
    assert str(leak).endswith("(exact: the same text in look-alike letters)")
    assert str(compare(text, text)[0]).endswith("(exact: the same text)")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("why?", "\U0001d430\U0001d421\U0001d432?"),  # mathematical letters
        ("SCOPE", "\u0405\u0421\u039f\u03a1\u0395"),  # Cyrillic and Greek capitals
        ("pay now", "p\u0251y n\u03bfw"),
        (
            "pay\u2060 \u200bnow\ufe0f",
            "p\u00ady n\u034fow".replace("py", "pay").replace("p\u00ady", "pa\u00ady"),
        ),
    ],
)
def test_letters_of_other_alphabets_and_unseen_characters_do_not_hide_a_text(left, right):
    assert [leak.kind for leak in compare(left, right)] == ["exact"]


# Edited texts

VOCABULARY = benchmark.Writer(random.Random(5), 600).text().split()


def made(n, characters, seed=0):
    writer = benchmark.Writer(random.Random(seed), characters)
    texts = []
    for i in range(n):
        words = writer.text().split()
        sentences = [" ".join(words[j : j + 12]).capitalize() + "." for j in range(0, len(words), 12)]
        texts.append(Text(f"t{i}", " ".join(sentences), "made"))
    return texts


def edited(texts, edit, strength, source="edited"):
    rng = random.Random(1)
    return [Text(t.id, EDITS[edit](t.text, strength, rng, VOCABULARY), source) for t in texts]


def found_and_false(texts, others):
    pairs = [(leak.left.id, leak.right.id) for leak in find_leaks(texts, others)]
    return sum(a == b for a, b in pairs), sum(a != b for a, b in pairs)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("characters", [300, 1_000])
def test_edits_of_a_tenth_are_seen_through_in_ninety_five_of_a_hundred(edit, characters):
    texts = made(100, characters)
    found, false = found_and_false(texts, edited(texts, edit, 0.1))
    assert found >= 95 and false == 0


@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_a_fifth_are_seen_through(edit):
    texts = made(60, 800)
    found, false = found_and_false(texts, edited(texts, edit, 0.2))
    assert found >= 57 and false == 0


@pytest.mark.parametrize("edit", EDITS)
def test_many_edited_copies_of_one_text_do_not_pass_for_a_template(edit):
    texts = made(12, 600)
    rng = random.Random(1)
    copies = [Text(t.id, EDITS[edit](t.text, 0.1, rng, VOCABULARY), "copy") for t in texts for _ in range(9)]
    found, false = found_and_false(texts, copies)
    assert found >= 0.95 * len(copies) and false == 0


def test_one_replaced_word_is_near_with_the_share_of_its_grams():
    words = numbered(100, 60).split()
    (leak,) = compare(" ".join(words), " ".join([*words[:20], "other", *words[21:]]))
    assert leak.kind == "near"
    n_grams = 60 * 5 - 1 + 2 - 4
    assert leak.similarity == pytest.approx(1 - 9 / n_grams, abs=1 / n_grams)
    assert str(leak).endswith("(near: edited, 97% of its character 5-grams)")
    assert compare(" ".join(words), " ".join([*words[:20], "other", *words[21:]]), threshold=0.99) == []


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("n_around", [1, 3, 20])
def test_text_inside_a_longer_one_is_contained(swap, n_around):
    held, around = made(1, 500)[0].text, [t.text for t in made(2 * n_around, 500, seed=9)]
    holding = " ".join([*around[:n_around], held, *around[n_around:]])
    (leak,) = compare(*((holding, held) if swap else (held, holding)))
    assert leak.kind == "contained" and leak.similarity > 0.95
    assert "of its character 5-grams are in the other" in str(leak)


def test_short_question_inside_a_prompt_is_contained():
    question = "What happens to you if you eat watermelon seeds?"
    (leak,) = compare(question, f"Q: {question}\nA: Nothing. They pass through. {SENTENCE} {SENTENCE}")
    assert str(leak).endswith("(contained: the whole text is in the other)")
    assert compare("What happens then?", f"What happens then? {SENTENCE}") == []


def test_texts_of_the_same_few_words_in_another_order_are_different():
    rng = random.Random(0)
    words = [
        "river",
        "stone",
        "cloud",
        "ladder",
        "copper",
        "window",
        "garden",
        "engine",
        "paper",
        "silver",
        "forest",
    ]
    texts = make_texts("few", *(" ".join(rng.choices(words, k=40)) for _ in range(60)))
    assert found_and_false(texts, texts) == (60, 0)


def test_one_changed_character_in_an_unspaced_script_is_near():
    characters = [chr(0x4E00 + 7 * i) for i in range(60)]
    (leak,) = compare("".join(characters), "".join([*characters[:30], "\u9f98", *characters[31:]]))
    assert leak.kind == "near"


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold must be above 0"):
        compare("a", "a", threshold=threshold)


# Short texts

QUESTION = "Which of the rivers of northern Spain reaches the sea in Bilbao?"


@pytest.mark.parametrize(
    ("other", "matches"),
    [
        ("Which of teh rivers of norhtern Spain reachs the sea in Bilbaoo?", True),
        ("So which of the river of northern Spain reaches the sea in Bilbao?", True),
        ("Which rivers of northern Spain reach the sea in Bilbao?", True),
        ("Which of the painters of northern Spain was born close to Bilbao?", False),
        ("How many people live in the cities of northern Spain?", False),
    ],
)
def test_short_questions_match_by_their_characters(other, matches):
    assert [leak.kind for leak in compare(QUESTION, other)] == (["near"] if matches else [])


def test_questions_that_differ_in_numbers_alone_are_different():
    assert compare("How much is 17 plus 25 minus 4 in all?", "How much is 18 plus 29 minus 3 in all?") == []


def test_texts_below_the_smallest_size_match_exactly_or_not_at_all():
    assert compare("Who wrote Hamlet first?", "Who wrote Hamlet firsts?") == []
    assert [leak.kind for leak in compare("Who wrote Hamlet at first?", "Who wrote Hamlet at firsts?")] == [
        "near"
    ]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_share_in_order_is_that_of_the_longest_common_subsequence(left, right):
    best = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            best[i][j] = best[i - 1][j - 1] + 1 if a == b else max(best[i - 1][j], best[i][j - 1])
    if left or right:
        assert in_order(left, right) == 2 * best[-1][-1] / (len(left) + len(right))


# Templates


def preamble_of(characters):
    return made(1, characters)[0].text


@pytest.mark.parametrize("is_first", [True, False])
def test_two_texts_under_one_preamble_do_not_match(is_first):
    own = [t.text for t in made(2, 120, seed=3)]
    joined = [f"{preamble_of(2_000)} {text}" if is_first else f"{text} {preamble_of(2_000)}" for text in own]
    assert compare(*joined) == []


def test_own_part_between_a_preamble_and_a_closing_word_decides():
    text = "{} Write a reward for this task: the drawer is {} ### Assistant:"
    left, right = "open as far as it goes.", "shut without any noise."
    assert compare(text.format(preamble_of(2_000), left), text.format(preamble_of(2_000), right)) == []
    slips = text.format(preamble_of(2_000), "oepn as far as it gos.")
    assert [leak.kind for leak in compare(text.format(preamble_of(2_000), left), slips)] == ["near"]


def test_preamble_whose_lines_end_otherwise_is_still_shared():
    lines = "\n".join(preamble_of(3_000).split(". "))
    own = [t.text for t in made(2, 700, seed=3)]
    left, right = f"{lines}\n{own[0]}", f"{lines}\n{own[1]}".replace("\n", " \\n")
    assert compare(left, right) == []


def test_long_text_with_words_changed_at_two_places_is_a_copy():
    words = preamble_of(2_500).split()
    changed = [*words[:30], "xylophone", *words[31:-5], "quagmire", *words[-4:]]
    (leak,) = compare(" ".join(words), " ".join(changed))
    assert leak.kind == "near" and leak.similarity > 0.95


@pytest.mark.parametrize("n", [1, 3])
def test_passages_written_anew_inside_a_long_text_leave_a_copy(n):
    words, others = preamble_of(2_500).split(), made(1, 600, seed=8)[0].text.split()
    for i in range(n):
        start = len(words) * (i + 1) // (n + 1)
        words[start : start + 12] = others[12 * i : 12 * i + 12]
    (leak,) = compare(preamble_of(2_500), " ".join(words))
    assert leak.kind == "near"


def test_texts_that_say_the_same_in_another_markup_are_different():
    names = [
        f"{a}{b}" for a in ("server", "store", "mail", "file", "cache") for b in made(1, 200)[0].text.split()
    ]
    rows = [(name, i * 37 % 1000) for i, name in enumerate(names)]
    left = "Turn this into XML. " + ", ".join(f'"{name}": {value}' for name, value in rows)
    markup = "<param><param-name>{}</param-name><param-value>{}</param-value></param>"
    right = "Turn this into JSON. " + "".join(markup.format(*row) for row in rows)
    assert min(len(left), len(right)) > 2_000 and compare(left, right) == []


def under_a_template(n, source, seed):
    template = made(1, 2_000)[0].text
    return [Text(f"{source}{i}", f"{template} {t.text}", source) for i, t in enumerate(made(n, 300, seed))]


@pytest.mark.parametrize(("n_left", "n_right"), [(12, 12), (1, 24), (24, 1)])
def test_template_that_many_share_is_no_match_on_either_side(n_left, n_right):
    left, right = under_a_template(n_left, "a", seed=3), under_a_template(n_right, "b", seed=4)
    assert find_leaks(left, right) == []


@pytest.mark.parametrize("edit", EDITS)
def test_edited_text_under_a_template_matches_its_own_and_no_other(edit):
    left, right = under_a_template(12, "a", seed=3), under_a_template(12, "b", seed=4)
    found, false = found_and_false(left, [*right, *edited(left, edit, 0.1)])
    assert found >= (9 if "rewritten" in edit else 11)
    assert false == 0 or edit == "part cut"  # what is cut may be all that was its own


def test_template_is_known_beyond_the_members_that_are_counted():
    left, right = under_a_template(2, "a", seed=3), under_a_template(150, "b", seed=4)
    (leak,) = find_leaks(left, [*right, *edited(left[:1], "typos", 0.1)])
    assert (leak.left.id, leak.right.id) == ("a0", "a0")


# Order


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_matches_do_not_depend_on_the_side(rng):
    texts = made(8, 400, seed=rng.randrange(5))
    others = [
        Text(t.id, EDITS[rng.choice(list(EDITS))](t.text, 0.1, rng, VOCABULARY), "o") for t in texts[:6]
    ]
    one = {(leak.kind, leak.left, leak.right) for leak in find_leaks(texts, others)}
    other = {(leak.kind, leak.right, leak.left) for leak in find_leaks(others, texts)}
    assert one == other and len(one) >= 5


def test_matches_come_in_the_order_of_the_later_texts_then_of_the_seeds():
    seeds = make_texts("seeds", *("same" if i in (5, 64) else f"other {i}" for i in range(70)))
    later = make_texts("test", "other 7", *(f"new {i}" for i in range(300)), "same")
    ids = [(leak.left.id, leak.right.id) for leak in find_leaks(seeds, later)]
    assert ids == [("seeds-7", "test-0"), ("seeds-5", "test-301"), ("seeds-64", "test-301")]


# Paraphrases


def fake_embedder(meanings, sizes):
    def embed(texts):
        sizes.append(len(texts))
        return [meanings.get(text, [0.0, 0.0, 1.0 + i]) for i, text in enumerate(texts)]

    return embed


def test_embedder_finds_paraphrases_from_its_threshold_on():
    meanings = {"my sister moved out": [1, 0, 0], "she left our home": [9, 1, 0], "a dog barks": [0, 5, 0]}
    left, right = make_texts("s", "my sister moved out"), make_texts("t", "a dog barks", "she left our home")
    embed = fake_embedder(meanings, [])
    (leak,) = find_leaks(left, right, embed=embed)
    assert (leak.kind, leak.right.id) == ("paraphrase", "t-1")
    assert leak.similarity == pytest.approx(9 / 82**0.5)
    assert str(leak).endswith("(paraphrase: cosine 0.99)")
    assert find_leaks(left, right, embed=embed, min_cosine=0.995) == []
    with pytest.raises(LeakError, match=r"paraphrase: cosine 0\.99"):
        check_leaks({"seeds": left, "test": right}, embed=embed)


def test_embedder_is_called_in_batches_and_text_matches_keep_their_kind():
    sizes = []
    texts = make_texts("s", *(f"text number {i} of them" for i in range(300)))
    leaks = find_leaks(texts[:2], texts, embed=fake_embedder({}, sizes), min_cosine=1.0)
    assert sizes == [2, 256, 44]
    assert [leak.kind for leak in leaks if leak.left.id == leak.right.id] == ["exact", "exact"]
    assert [leak.right.id for leak in leaks if leak.left.id == "s-0"] == [t.id for t in texts]


@pytest.mark.parametrize("vectors", [[[1.0]], [1.0, 2.0], [[1.0], [float("nan")]]])
def test_embedder_that_does_not_return_a_vector_a_text_is_refused(vectors):
    with pytest.raises(UsageError, match="embed must return a finite vector for each of 2 texts"):
        find_leaks(make_texts("s", "a", "b"), [], embed=lambda _: vectors)
    with pytest.raises(UsageError, match="min_cosine must be above 0"):
        compare("a", "a", min_cosine=0)


# Many texts


def test_planted_leaks_are_found_among_two_thousand_texts(capsys):
    assert benchmark.main(["--only", "time", "--texts", "2000", "--characters", "600", "--seeds", "20"]) == 0
    assert "planted 2, missed 0, false 0" in capsys.readouterr().out


def test_evaluation_texts_are_not_kept():
    writer = benchmark.Writer(random.Random(1), 500)
    seeds = make_texts("seeds", *(writer.text() for _ in range(5)))

    def peak(n):
        gc.collect()
        tracemalloc.start()
        assert find_leaks(seeds, (Text(str(i), writer.text(), "test") for i in range(n))) == []
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    peak(20)  # imports what it needs
    assert peak(1_200) < 1.3 * peak(600)  # more than two batches


def test_time_is_linear_in_the_number_of_texts():
    writer = benchmark.Writer(random.Random(1), 1_000)
    seeds = make_texts("seeds", *(writer.text() for _ in range(20)))
    texts = make_texts("test", *(writer.text() for _ in range(800)))

    def seconds(some):
        start = time.process_time()
        find_leaks(seeds, some)
        return time.process_time() - start

    seconds(texts[:50])
    ratio = min(seconds(texts) for _ in range(3)) / min(seconds(texts[:200]) for _ in range(3))
    assert ratio < 8  # 4 if linear, 16 if quadratic


def test_time_is_linear_in_the_length_of_a_text():
    seeds = make_texts("seeds", benchmark.Writer(random.Random(1), 1_000).text())
    long, longer = (benchmark.Writer(random.Random(2), n).text() for n in (50_000, 400_000))

    def seconds(text):
        start = time.process_time()
        find_leaks(seeds, make_texts("test", text))
        return time.process_time() - start

    assert min(seconds(longer) for _ in range(3)) / min(seconds(long) for _ in range(3)) < 24  # 8, 64


def test_shared_preamble_does_not_lead_to_comparing_all_pairs():
    writer = benchmark.Writer(random.Random(2), 400)
    preamble = " ".join([writer.text(), writer.text()])
    left = make_texts("left", *(f"{preamble} {writer.text()}" for _ in range(150)))
    right = make_texts("right", *(f"{preamble} {writer.text()}" for _ in range(150)))
    calls = 0

    def count(frame, event, _argument):
        nonlocal calls
        calls += event == "call" and frame.f_code is alike.__code__

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assert find_leaks(left, right) == []
    finally:
        sys.setprofile(before)
    assert calls < len(left) * len(right) / 20


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
    words = numbered(100, 60).split()
    words[20] = "other"
    seeds = make_texts("a.jsonl", numbered(100, 60), *(f"question {i}" for i in range(6)))
    test = make_texts("b.jsonl", " ".join(words), *(f"Question {i}?" for i in range(6)))
    with pytest.raises(LeakError) as caught:
        check_leaks({"seeds": seeds, "test": test})
    message = str(caught.value)
    assert "7 pairs match across seeds, test" in message
    assert (
        "'a.jsonl-0' of 'a.jsonl' and 'b.jsonl-0' of 'b.jsonl' (near: edited, 97% of its character 5-grams)"
        in message
    )
    assert "'a.jsonl-4' of 'a.jsonl' and 'b.jsonl-4' of 'b.jsonl' (exact: the same text)" in message
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
    assert [leak for leak in leaks if leak.kind != "exact"] == []


def different_pairs(texts):
    return {(a.left.id, a.right.id) for a in find_leaks(texts, texts) if a.left.id < a.right.id}


@needs_data
def test_no_different_posts_match():
    posts = load("reappraisal/pool_400.jsonl", "post")
    assert different_pairs(posts) == {
        ("oby0ig", "obzgsr"),
        ("ofgy6a", "ofgyky"),
    }  # posted twice, 97 % of the words


@needs_data
def test_no_different_instructions_match():
    texts = load("rubrics/biggen_765.jsonl", "input")
    assert different_pairs(texts) == set()
    assert find_leaks(texts[::2], texts[1::2]) == []


@needs_data
def test_two_instructions_under_one_preamble_do_not_match_without_a_third():
    tasks = {}
    for text in load("rubrics/biggen_765.jsonl", "input"):
        if text.id.startswith(("planning_reward_modeling", "tool_usage")):
            tasks.setdefault(text.id.rsplit("_", 1)[0], []).append(text)
    pairs = [pair for texts in tasks.values() for pair in combinations(texts, 2)]
    found = {(a.id, b.id) for a, b in pairs if find_leaks([a], [b])}
    assert len(pairs) > 250
    assert found <= {
        ("planning_reward_modeling_5", "planning_reward_modeling_7"),  # 730 characters, 67 % of the grams
        ("tool_usage_coding_for_math_0", "tool_usage_coding_for_math_2"),  # 76 %
    }


@needs_data
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("file", ["posts", "instructions"])
def test_real_texts_are_found_through_edits_of_a_tenth(file, edit):
    texts = [t for t in benchmark.read_texts(DATA, file, slice(1, None, 4)) if len(t.text) > 160][:60]
    assert found_and_false(texts, edited(texts, edit, 0.1))[0] >= 0.95 * len(texts)


@needs_data
def test_truthfulqa_is_refused_as_training_data():
    questions = benchmark.read_texts(DATA, "questions")
    with pytest.raises(LeakError, match=r"419 pairs match|4\d\d pairs match"):
        check_leaks({"train": questions, "evaluation": questions})
    asked = [Text(t.id, f"Answer this.\n\nQ: {t.text}\nA:", "train") for t in questions if len(t.text) > 60]
    found = {(a.left.id, a.right.id) for a in check_leaks({"train": asked, "test": questions}, allow=True)}
    assert all((t.id, t.id) in found for t in asked)
    for other in ("posts", "instructions"):
        assert find_leaks(questions, benchmark.read_texts(DATA, other)) == []


@needs_data
@pytest.mark.parametrize("edit", EDITS)
def test_truthfulqa_is_refused_as_training_data_through_edits_of_a_tenth(edit):
    questions = [t for t in benchmark.read_texts(DATA, "questions") if len(t.text) >= 40][::2]
    train = edited(questions, edit, 0.1, "train")
    with pytest.raises(LeakError, match="--allow-leak"):
        check_leaks({"train": train, "evaluation": questions})
    found = {(a.left.id, a.right.id) for a in check_leaks({"train": train, "test": questions}, allow=True)}
    assert sum((t.id, t.id) in found for t in questions) >= 0.95 * len(questions)
