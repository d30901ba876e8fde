"""An optimizer of one's own: a function or class in a file, found as the built-in ones are, its options checked."""

import json
import math
import re

import pytest

import spri_dspy as spri
from spri_dspy.errors import DataError, PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.spec import CALL
from spri_dspy.tuning.optimizers import load_optimizer, optimizers
from spri_dspy.tuning.programs import identity
from tests.tuning.world import Town, helpful_rows, make_brief, make_examples

SEARCH = '''
"""Tries one helpful seed more each time."""
from tests.tuning.world import helpful_rows


def search(context, *, tries: int = 3, word: str = "", first=1):
    for n in range(first, tries + 1):
        program = context.program({"principles.generate": helpful_rows()[:n]})
        value = context.score(program)
        assert value == context.score(program)
'''
CLASS = '''
from dataclasses import dataclass

from tests.tuning.world import helpful_rows


@dataclass
class Reversed:
    """Gives candidates one by one, unscored."""

    most: int = 4

    def __call__(self, context):
        assert context.left().calls > 0 and context.train and context.search
        for n in range(self.most, 0, -1):
            yield context.program({"principles.generate": helpful_rows()[:n]})


def program_runs(sizes, *, most):
    return most * sizes["search"]
'''


@pytest.fixture
def town():
    return Town(effect=0.46, base=0.05)


def tune(town, tmp_path, optimizer, n=120, **settings):
    program = make_brief(town)
    settings = {"run_dir": tmp_path / "run", **settings}
    examples = make_examples(town, n)
    return program, spri.tune(program, trainset=examples, metric="pearson", optimizer=optimizer, **settings)


def written(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(("text", "name"), [(SEARCH, "search"), (CLASS, "Reversed")])
def test_a_search_in_a_file_finds_what_helps(town, tmp_path, text, name):
    program, tuned = tune(town, tmp_path, f"{written(tmp_path, text)}:{name}")
    report = tuned.report
    assert report.improved, report.decision.reason
    assert report.optimizer == name and report.test["after"].value > report.test["before"].value + 0.2
    assert len(tuned.principles.generate.demos) > 1
    assert {trial["name"] for trial in report.trials} >= {"start"}
    assert report.winner in [trial["program"] for trial in report.trials]
    for name, predictor in tuned.named_predictors():
        assert predictor.lm is dict(program.named_predictors())[name].lm
    changed = report.changes["principles.generate"]
    assert len(changed["before"]["demos"]) == 4 and changed["after"]["demos"][0]["group"] == "north"


def test_a_function_or_class_is_an_optimizer_as_it_is(town, tmp_path):
    def nothing_new(context):
        return [context.start]

    program, tuned = tune(town, tmp_path, nothing_new, n=48)
    assert not tuned.report.improved and identity(tuned) == identity(program)
    assert tuned.report.decision.reason == "no candidate was better than the start on the search split"


def test_lms_that_a_search_took_away_are_given_back(town, tmp_path):
    def careless(context):
        program = context.program({"principles.generate": helpful_rows()})
        program.set_lm(town.lm("town/other"))
        return [program]

    program, tuned = tune(town, tmp_path, careless)
    assert tuned.report.improved
    assert tuned.get_lm() is program.get_lm()


def test_a_search_that_spends_its_part_of_the_budget_leaves_what_it_scored(town, tmp_path):
    def endless(context):
        rng, rows = context.rng, helpful_rows()
        while True:
            context.score(context.program({"principles.generate": rng.sample(rows, 2) + rows[:1]}))

    _, tuned = tune(town, tmp_path, endless, budget=Budget(max_calls=500))
    report = tuned.report
    assert report.stopped == "the search has spent its part of the budget"
    assert len(report.trials) > 1 and report.test["before"].n > 0
    assert sum(town.stages.values()) <= 500 + 16


def test_options_are_keyword_parameters_and_are_checked(tmp_path):
    path = written(tmp_path, SEARCH)
    name = f"{path}:search"
    assert load_optimizer(name, {"tries": 5}).options == {"tries": 5, "word": "", "first": 1}
    with pytest.raises(UnknownNameError, match="unknown option of search 'trys'; known: first, tries, word"):
        load_optimizer(name, {"trys": 5})
    for option, value in (("tries", "many"), ("tries", True), ("word", 3), ("first", "one")):
        with pytest.raises(UsageError, match=f"the option {option} of search: .*, not {value!r}") as caught:
            load_optimizer(name, {option: value})
        assert "\n" not in str(caught.value)
    assert load_optimizer(f"{written(tmp_path, CLASS, 'c.py')}:Reversed").program_runs({"search": 7}) == 28
    assert load_optimizer(name).program_runs({"search": 7}) is None


def test_an_option_without_a_default_must_be_given():
    def search(context, *, rows: list[str]):
        return ()

    with pytest.raises(UsageError, match="search needs the option 'rows'"):
        load_optimizer(search)
    assert load_optimizer(search, {"rows": ["a"]}).options == {"rows": ["a"]}


def test_other_code_is_another_run(town, tmp_path):
    path = written(tmp_path, SEARCH)
    tune(town, tmp_path, f"{path}:search", n=48)
    written(tmp_path, SEARCH.replace("[:n]", "[-n:]"))
    with pytest.raises(spri.RunMismatchError, match="settings"):
        tune(town, tmp_path, f"{path}:search", n=48)


@pytest.mark.parametrize(
    ("text", "name", "error", "said"),
    [
        ("", "search", UnknownNameError, "unknown name in .*mine.py 'search'"),
        ("import nothing_of_this_name", "search", DataError, "mine.py, line 1|cannot be loaded"),
        ("search = 3", "search", UsageError, "must be a function or a class, not int"),
    ],
)
def test_a_file_that_is_no_optimizer_is_one_line(tmp_path, text, name, error, said):
    with pytest.raises(error, match=said) as caught:
        load_optimizer(f"{written(tmp_path, text)}:{name}")
    assert "\n" not in str(caught.value)


def test_what_a_search_gives_must_be_programs(town, tmp_path):
    with pytest.raises(UsageError, match=r"the optimizer wrong gave a str; .* context.program\(\)"):
        tune(town, tmp_path, wrong, n=48)
    other = spri.SPRI(spri.load_task("sft"))
    with pytest.raises(UsageError, match=r"gave a program with principles.generate"):
        tune(town, tmp_path / "b", lambda context: [other], n=48)


def wrong(context):
    return ["not a program"]


def test_nothing_that_can_be_scored_ends_it_at_the_first_batch(town, tmp_path):
    said = town.said
    town.said = lambda request: "?" if CALL.get().stage == "generate_response" else said(request)
    settings = {"n": 48, "optimizer": lambda context: ()}
    with pytest.raises(
        PrerequisiteError, match=r"none of the first 8 examples could be scored.*UnreadableAnswer"
    ):
        tune(town, tmp_path, **settings)
    town.said = said  # mended: what failed is asked anew, what did not is kept
    n_principles = town.stages["generate_principles"]
    _, tuned = tune(town, tmp_path, **settings)
    assert not math.isnan(tuned.score)
    needed = sum(tuned.report.splits[name]["examples"] for name in ("holdout", "test"))
    assert town.stages["generate_principles"] - n_principles == needed - 8


def test_every_optimizer_is_on_the_menu():
    assert set(optimizers()) >= {"seed_search", "gepa", "mipro_v2", "simba", "copro", "labeled_few_shot"}
    with pytest.raises(
        UnknownNameError, match=r"unknown optimizer 'grid'; known: .*gepa, .*path/to/file.py:NAME"
    ):
        load_optimizer("grid")


def test_progress_is_told(town, tmp_path):
    records, phases = [], []
    tune(
        town,
        tmp_path,
        f"{written(tmp_path, SEARCH)}:search",
        n=48,
        on_record=records.append,
        on_phase=phases.append,
    )
    assert sum(used.calls for r in records for used in r.usage.values()) == sum(town.stages.values())
    assert phases[0] == "start on the holdout" and phases[-1].startswith("test, best ")
    assert any(re.fullmatch(r"search, best -?\d.*", phase) for phase in phases)


def test_the_report_is_plain_json(town, tmp_path):
    _, tuned = tune(town, tmp_path, f"{written(tmp_path, SEARCH)}:search", n=48)
    kept = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(tuned.report.to_json()))
    assert kept["costs"]["calls"] == sum(town.stages.values())
