"""Examples are dspy.Examples, whatever they are made from."""

import copy
import pickle

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.errors import UsageError
from spri_dspy.tasks import as_examples, make_example


def made():
    return make_example("p1", {"post": "x", "aim": "y"}, "g", "c", {"human_score": 3})


def test_fields_labels_and_inputs_are_dspys():
    example = made()
    assert isinstance(example, dspy.Example)
    assert (example.id, example.group, example.cluster, example.human_score) == ("p1", "g", "c", 3)
    assert dict(example.inputs()) == {"post": "x", "aim": "y", "group": "g"}
    assert example.input_values == {"post": "x", "aim": "y"}
    assert example.label_values == {"human_score": 3}


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), lambda e: e.copy()]
)
def test_copies_keep_inputs_and_labels(through):
    again = through(made())
    assert (again.input_values, again.label_values, again.id) == (
        {"post": "x", "aim": "y"},
        {"human_score": 3},
        "p1",
    )


def test_an_example_of_a_task_goes_back_in_unchanged():
    example = next(spri.load_task("reappraisal").examples())
    (again,) = as_examples([example], ("post", "aim"))
    assert again == example


def test_dicts_and_dspy_examples_become_examples():
    rows = [
        {"post": "x", "aim": "y", "human_score": 3},
        dspy.Example(post="x", aim="y", human_score=3, id=7, group="g").with_inputs("post", "aim"),
    ]
    first, second = as_examples(rows, ("post", "aim"))
    assert (first.id, first.group, first.label_values) == ("1", None, {"human_score": 3})
    assert (second.id, second.group, second.label_values) == ("7", "g", {"human_score": 3})


def test_a_field_of_every_example_is_no_input():
    with pytest.raises(UsageError, match="cannot be named 'group'"):
        make_example("a", {"group": "x"})
