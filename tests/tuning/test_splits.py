"""Splits: nothing alike on two sides, every group everywhere, and the same splits every time."""

import random
import string
from collections import Counter

import dspy
import pytest

from spri_dspy.errors import LeakError, UsageError
from spri_dspy.tasks import make_example
from spri_dspy.tuning.splits import make_splits, split_examples

NAMES = ["post", "aim"]


def sentence(seed, n=30):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(n))


def rows(n, *, groups=2, per_cluster=1, first=0):
    """Examples with posts that are nothing like each other; all share their group's aim."""
    return [
        make_example(
            f"r{i}",
            {"post": sentence(i // per_cluster), "aim": f"see it in a new way, number {i % groups}"},
            f"g{i % groups}" if per_cluster == 1 else f"g{i // per_cluster % groups}",
            f"c{i // per_cluster}" if per_cluster > 1 else None,
        )
        for i in range(first, first + n)
    ]


def split(train, validation=None, test=None, **settings):
    return make_splits(train, validation, test, input_names=NAMES, **settings)


def test_one_set_gives_all_splits_in_their_shares():
    parts = split(rows(100)).parts()
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 20,
        "search": 25,
        "holdout": 25,
        "test": 30,
    }
    ids = [e.id for part in parts.values() for e in part]
    assert len(set(ids)) == 100


def test_groups_are_spread_over_all_splits():
    for part in split(rows(120, groups=3)).parts().values():
        counts = Counter(e.group for e in part)
        assert set(counts) == {"g0", "g1", "g2"} and max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_clusters_stay_whole(seed):
    home = {}
    for name, part in split(rows(80, per_cluster=4), seed=seed).parts().items():
        for e in part:
            assert home.setdefault(e.cluster, name) == name


def test_texts_that_are_nearly_the_same_stay_together():
    twins = rows(40)
    for i in range(0, 40, 2):
        twins[i + 1] = make_example(
            f"twin{i}", {"post": twins[i].input_values["post"] + " indeed", "aim": "x"}, twins[i].group
        )
    found = split(twins)
    home = {e.id.rpartition("/")[2]: name for name, part in found.parts().items() for e in part}
    assert all(home[f"r{i}"] == home[f"twin{i}"] for i in range(0, 40, 2))
    assert found.leaks == ()


def test_splits_depend_on_the_examples_and_the_seed_alone():
    once, again, shuffled = split(rows(60)), split(rows(60)), split(rows(60)[::-1])
    assert once == again
    assert {e.id for e in once.test} == {e.id for e in shuffled.test}
    assert {e.id for e in split(rows(60), seed=1).test} != {e.id for e in once.test}


def test_given_splits_are_kept():
    found = split(rows(10), rows(20, first=10), rows(7, first=30))
    assert (len(found.train), len(found.search), len(found.holdout), len(found.test)) == (10, 10, 10, 7)
    assert found.test[0].id == "test/r30" and found.search[0].id.startswith("validation/")


def test_what_is_missing_comes_out_of_the_training_examples():
    no_test, no_validation = split(rows(50), rows(20, first=50)), split(rows(50), None, rows(20, first=50))
    assert (len(no_test.train), len(no_test.test)) == (20, 30)
    assert (len(no_validation.train), len(no_validation.search) + len(no_validation.holdout)) == (15, 35)
    assert split(rows(10), rows(20, first=10), []).test == ()


def test_ids_may_repeat_between_splits_and_not_within():
    same = [make_example("r0", {"post": sentence("other"), "aim": "x"})]
    assert split(rows(8), [*same, *rows(9, first=20)], []).train[0].id == "train/r0"
    with pytest.raises(UsageError, match="two examples have the id 'train/r0'"):
        split([*rows(3), *rows(1)], rows(9, first=9), [])


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_training_text_elsewhere_is_a_leak(side):
    leaked = make_example("x", {"post": rows(1)[0].input_values["post"] + " again", "aim": "other"})
    parts = {"validation": rows(20, first=20), "test": rows(9, first=50)}
    parts[side] = [*parts[side], leaked]
    with pytest.raises(LeakError, match=r"'train/r0' of 'train' and '(validation|test)/x'"):
        split(rows(5), **parts)
    marked = split(rows(5), **parts, allow_leak=True)
    assert len(marked.leaks) == 1 and "near" in marked.to_json()["leaks"][0]


def test_validation_and_test_are_guarded_against_each_other():
    with pytest.raises(LeakError):
        split(rows(5), rows(9, first=20), rows(9, first=28))


def test_a_seed_in_validation_is_a_leak_and_in_training_is_not():
    seed = [{"post": rows(30)[25].input_values["post"], "principles": "p"}]
    with pytest.raises(LeakError, match="'seed 1' of 'seeds'"):
        split(rows(5), rows(9, first=20), [], seeds=seed)
    assert split(rows(30)[20:26], rows(9, first=40), [], seeds=seed).leaks == ()


def test_examples_like_a_seed_go_to_training():
    seeds = [{"post": row.input_values["post"], "principles": "p"} for row in rows(60)[50:56]]
    for seed in range(3):
        found = split(rows(60), seeds=seeds, seed=seed)
        assert {f"train/r{i}" for i in range(50, 56)} <= {e.id for e in found.train}


def test_seeds_without_that_input_are_of_no_concern():
    assert split(rows(30), seeds=[{"principles": "general"}]).leaks == ()


def test_examples_are_told_apart_by_the_input_that_varies():
    answers = [
        make_example(
            f"a{i}", {"instruction": sentence(i // 4), "answer": sentence(f"answer {i}", 60)}, cluster=None
        )
        for i in range(40)
    ]
    found = make_splits(answers, None, None, input_names=["instruction"])
    home = {}
    for name, part in found.parts().items():
        for e in part:
            assert home.setdefault(e.input_values["instruction"], name) == name


def test_the_input_to_compare_can_be_named():
    with pytest.raises(UsageError, match="no example has the input 'text'; they have aim, post"):
        split(rows(30), text_input="text")
    with pytest.raises(LeakError):  # two aims for all: nothing can be told apart by them
        split(rows(10), rows(10, first=10), [], text_input="aim")


def test_dspy_examples_bring_group_cluster_id_and_labels():
    marked = dspy.Example(post="p", aim="a", human_score=3, group="g", id=7).with_inputs("post", "aim")
    bare = dspy.Example(post="q", aim="b", cluster="c", extra="e")
    found = split_examples([marked, bare], NAMES, "train")
    assert found[0] == make_example("train/7", {"post": "p", "aim": "a"}, "g", None, {"human_score": 3})
    assert found[1] == make_example("train/2", {"post": "q", "aim": "b"}, None, "c", {"extra": "e"})


def of_an_evaluation_set(examples):
    return [e.changed(labels={"evaluation_only": "Quiz"}) for e in examples]


def test_an_evaluation_set_is_never_trained_on_and_chosen_on_only_where_it_is_named():
    ours, theirs = rows(20), of_an_evaluation_set(rows(20, first=20))
    for train, validation, test in ((theirs, None, None), ([*ours, theirs[0]], rows(20, first=40), [])):
        with pytest.raises(
            LeakError, match="'train/r20' is of Quiz, an evaluation set: nothing of it is tuned"
        ):
            split(train, validation, test, select_on=["Quiz"])
    with pytest.raises(LeakError, match=r'validation is of Quiz, .* name it with select_on = \["Quiz"\]'):
        split(ours, theirs, [], select_on=["quiz"])
    found = split(ours, theirs, [], select_on=["Quiz"])
    assert found.chosen_on == ("Quiz",) and found.to_json()["chosen_on"] == ["Quiz"]
    reported = split(ours, rows(20, first=40), theirs)
    assert reported.chosen_on == () and "chosen_on" not in reported.to_json()


def test_what_is_no_example_is_refused():
    with pytest.raises(UsageError, match="example 2 is of type int"):
        split([rows(1)[0], 3])
    with pytest.raises(UsageError, match="no training examples"):
        split([])
    with pytest.raises(UsageError, match="between 0 and 1"):
        split(rows(9), holdout=1.0)


def test_a_report_counts_examples_clusters_and_groups():
    told = split(rows(80, per_cluster=4)).to_json()
    assert set(told) == {"train", "search", "holdout", "test"}
    assert sum(part["examples"] for part in told.values()) == 80
    assert sum(part["clusters"] for part in told.values()) == 20
    assert set(told["search"]["groups"]) == {"g0", "g1"}
