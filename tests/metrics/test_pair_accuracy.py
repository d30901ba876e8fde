"""pair_accuracy: what a verdict on a pair is worth, what has no value, and that races read it row by row."""

import random

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.errors import UsageError
from spri_dspy.tuning.racing.objectives import Mean, objective_of, row_of
from spri_dspy.tuning.racing.race import race


def value(preferred, settings=None, **fields):
    metric = spri.load_metric("pair_accuracy", **(settings or {}))
    return metric.estimate([{"id": "a", "preferred": preferred}], [fields]).value


@pytest.mark.parametrize(
    ("verdict", "swapped", "worth"),
    [(1, 1, 1.0), (1, 2, 0.5), (2, 2, 0.0), (0, 1, 0.75), (0, 0, 0.5), ("1", " 2 ", 0.5), (1.0, 0, 0.75)],
)
def test_a_pair_is_worth_the_mean_of_its_two_orders(verdict, swapped, worth):
    assert value(1, winner=verdict, winner_swapped=swapped) == worth
    assert value(2, winner=verdict, winner_swapped=swapped) == pytest.approx(1 - worth)


def test_a_tie_counts_nothing_if_it_is_to_be_wrong_and_the_setting_is_in_the_manifest():
    assert value(1, {"ties": "wrong"}, winner=0, winner_swapped=1) == 0.5
    assert spri.load_metric("pair_accuracy", ties="wrong").identity["ties"] == "wrong"
    with pytest.raises(UsageError, match="'half' or 'wrong', not 'never'"):
        spri.load_metric("pair_accuracy", ties="never")


def test_one_order_is_enough_where_the_other_was_not_asked():
    assert value(2, winner=2) == 1.0
    assert value(2, {"swapped": None}, winner=2, winner_swapped=1) == 1.0


@pytest.mark.parametrize(
    ("preferred", "fields"),
    [
        (1, {"winner": None, "winner_swapped": 1}),
        (1, {"winner": 1, "winner_swapped": None}),
        (1, {"winner": "both", "winner_swapped": 1}),
        (1, {"winner": True, "winner_swapped": 1}),
        (1, {"winner": 3}),
        (1, {}),
        (0, {"winner": 1}),
        (None, {"winner": 1}),
    ],
)
def test_a_pair_that_cannot_be_read_is_dropped_and_never_wrong(preferred, fields):
    examples = [{"id": "a", "preferred": preferred}, {"id": "b", "preferred": 2}]
    estimate = spri.load_metric("pair_accuracy").estimate(examples, [fields, {"winner": 2}])
    assert (estimate.value, estimate.n, estimate.dropped) == (1.0, 1, 1)


def test_a_call_is_dspys_and_reads_fields_of_any_name():
    metric = spri.load_metric("pair_accuracy", preferred="gold", verdict="better", swapped="better_swapped")
    example = dspy.Example(gold=2)
    assert metric(example, dspy.Prediction(better=2)) == 1.0
    assert metric(example, dspy.Prediction(better=2, better_swapped="1")) == 0.5
    assert metric(example, dspy.Prediction(better=1), trace=[]) is False


def test_a_race_for_it_finds_the_judge_that_is_right_most_often_and_gives_its_accuracy():
    draw, metric = random.Random(0), spri.load_metric("pair_accuracy")
    examples = [
        dspy.Example(id=str(i), preferred=1 + i % 2, group=f"g{i % 3}", cluster=None) for i in range(300)
    ]
    verdicts = {
        name: [{"winner": p if draw.random() < right else 3 - p} for p in (1 + i % 2 for i in range(300))]
        for name, right in {"poor": 0.5, "fair": 0.6, "good": 0.8}.items()
    }

    def evaluate(judge, rows):
        return [metric(examples[i], verdicts[judge][i]) for i in rows]

    assert objective_of(metric) == Mean()
    rows = [row_of(metric, example) for example in examples]
    found = race(
        list(verdicts), rows, evaluate, budget=300, rng=random.Random(1), objective=objective_of(metric)
    )
    assert found.winner == "good"
    whole = race(["good", "fair"], rows, evaluate, budget=600, rng=random.Random(1), objective=Mean())
    assert whole.estimates["good"].value == pytest.approx(metric.estimate(examples, verdicts["good"]).value)
