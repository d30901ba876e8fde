"""DSPy's optimizers by a set-level metric: better where that is to be had, the given LMs only, no failure as a zero."""

import json
import threading
from dataclasses import replace

import dspy
import pytest
from dspy.lm15 import AuthError

import spri_dspy as spri
from spri_dspy.errors import BudgetSpent, PrerequisiteError, UnknownNameError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.scope import Scope
from spri_dspy.metrics import Metric
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.predict import demos_of_group
from spri_dspy.records import Score
from spri_dspy.tasks import make_example
from spri_dspy.tuning.context import Scored
from spri_dspy.tuning.dspy_search import ranked
from spri_dspy.tuning.example_metric import ExampleMetric, as_rows
from spri_dspy.tuning.optimizers import optimizers
from spri_dspy.tuning.student import Halt, Seen, Session, Student, tidy
from spri_dspy.tuning.surrogate import NEUTRAL, fit
from tests.tuning import world
from tests.tuning.listening import LANDMARKS, Listening, Writer, make_examples
from tests.tuning.world import make_program

WRITERS = ("copro", "gepa", "mipro_v2", "simba")
DSPYS = [name for name in optimizers() if name != "seed_search"]
SMALL = {
    "bootstrap_few_shot": {"max_bootstrapped_demos": 2},
    "bootstrap_random_search": {"num_candidate_programs": 1},
    "copro": {"breadth": 2, "depth": 1},
    "gepa": {"max_metric_calls": 50},
    "labeled_few_shot": {"k": 4},
    "mipro_v2": {"num_candidates": 2, "num_trials": 2},
    "simba": {"bsize": 4, "num_candidates": 2, "max_steps": 2},
}


class Nobody:
    """The LM of no role: a call that reaches it is a failure."""

    def __init__(self):
        self.calls = 0

    def answer(self, request):
        self.calls += 1
        raise AssertionError("a call reached the global LM")


@pytest.fixture
def nobody():
    made = Nobody()
    with dspy.context(lm=replay_lm(made)):
        yield made


def splits(town, train=16, validation=40, test=30):
    return {
        "trainset": make_examples(town, train),
        "valset": make_examples(town, validation, 100),
        "testset": make_examples(town, test, 300),
    }


def tuned(optimizer, tmp_path, town, *, writer=None, sets=None, options=None, **settings):
    """What `spri.tune` makes of the town's program, and that program."""
    program = make_program(town)
    if optimizer in WRITERS:
        settings["prompt_lm"] = (writer or Writer()).lm()
    found = spri.tune(
        program,
        metric="pearson",
        optimizer=optimizer,
        options=options,
        run_dir=tmp_path / "run",
        **(sets or splits(town)),
        **{"stages": ["principles.generate"], "concurrency": 8, **settings},
    )
    return found, program


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gepa", "mipro_v2"])
def test_instructions_that_help_are_found_and_hold_on_the_test_split(tmp_path, nobody, optimizer):
    town, writer = Listening(), Writer()
    found, _ = tuned(optimizer, tmp_path, town, writer=writer, sets=splits(town, 24, 80, 60))
    report = found.report
    assert report.improved, report.decision.reason
    assert report.test["after"].value > report.test["before"].value + 0.2
    assert report.test["difference"].low > 0
    assert any(word in found.principles.generate.signature.instructions for word in LANDMARKS)
    assert nobody.calls == 0 and writer.prompts
    assert town.roles and {("base", "town/base"), ("critic", "town/critic")} == set(town.roles)


def test_gepa_is_told_what_was_off_and_what_was_missed(tmp_path, nobody):
    town, writer = Listening(), Writer()
    tuned("gepa", tmp_path, town, writer=writer, options={"max_metric_calls": 40})
    told = "\n".join(writer.prompts)
    assert "too high" in told or "too low" in told
    assert "Missing here, though the principles that experts wrote for this ask for it" in told
    assert "before all else" in told


@pytest.mark.parametrize("optimizer", DSPYS)
def test_only_the_chosen_stage_changes_and_every_role_keeps_its_lm(tmp_path, nobody, optimizer):
    town = Listening()
    found, program = tuned(
        optimizer, tmp_path, town, sets=splits(town, 8, 24, 12), options={"finalists": 2, **SMALL[optimizer]}
    )
    assert len(found.candidate_programs) > 1
    start = {name: p.dump_state() for name, p in program.named_predictors()}
    for each in (found, *(c["program"] for c in found.candidate_programs)):
        for name, predictor in each.named_predictors():
            assert name == "principles.generate" or predictor.dump_state() == start[name]
            assert predictor.lm is dict(program.named_predictors())[name].lm
    assert nobody.calls == 0
    assert {("base", "town/base"), ("critic", "town/critic")} == set(town.roles)


def test_bootstrapped_demos_get_their_examples_group_back(tmp_path, nobody):
    town = Listening()
    both = ["principles.generate", "response.generate"]
    found, _ = tuned("bootstrap_few_shot", tmp_path, town, stages=both, options={"max_bootstrapped_demos": 6})
    made = next(
        c["program"] for c in found.candidate_programs if len(c["program"].principles.generate.demos) > 4
    )
    new = [d for d in made.principles.generate.demos if d.get("augmented")]
    assert new and all(d.group in d.question for d in new)
    assert all(
        type(d.response) is dict for d in made.response.generate.demos
    )  # plain, as they will be once saved
    north = demos_of_group(made.principles.generate.demos, "north")
    assert north and all(d.group == "north" for d in north)


def test_the_starts_demos_stay_in_front_unless_told_otherwise(tmp_path, nobody):
    town = Listening()
    kept, program = tuned("labeled_few_shot", tmp_path / "kept", town)
    seeds = len(program.principles.generate.demos)
    longest = max((c["program"].principles.generate.demos for c in kept.candidate_programs), key=len)
    assert [dict(d) for d in longest[:seeds]] == [dict(d) for d in program.principles.generate.demos]
    assert len(longest) > seeds
    bare, _ = tuned("labeled_few_shot", tmp_path / "bare", town, options={"keep_demos": False, "k": 3})
    assert 3 in [len(c["program"].principles.generate.demos) for c in bare.candidate_programs]


def test_failures_are_missing_and_no_zeros(tmp_path, nobody):
    dumb = [f"bridge {100 + i} in" for i in range(0, 40, 5)]
    town = Listening(dumb=dumb)
    found, _ = tuned("mipro_v2", tmp_path, town, options=SMALL["mipro_v2"])
    report = found.report
    assert sum(r["failures"].get("UnreadableAnswer", 0) for r in report.rounds) > 0
    start = next(t for t in report.trials if t["name"] == "start")
    assert start["dropped"] > 0 and start["n"] + start["dropped"] == report.splits["search"]["examples"]
    log = (tmp_path / "run" / "optimizer.log").read_text("utf-8")
    first = float(log.partition("Default program score: ")[2].partition("\n")[0])
    assert first == pytest.approx(
        100 * NEUTRAL, abs=0.5
    )  # a zero for each failure would have pulled it far down


def watched(town, examples, *, budget=None, metric=None, stages=("principles.generate",)):
    """A student, its metric and its session, as an optimizer gets them."""
    program, metric = make_program(town), metric or pearson()
    session = Session(Scope(budget=budget), examples)
    surrogate = fit(metric, [replace(s, value=s.label) for s in metric.scores([], examples)])
    return Student(program, stages, session), ExampleMetric(metric, surrogate, examples, session), session


def test_a_failed_example_is_neutral_to_scorers_and_false_to_bootstrapping():
    examples = make_examples(Listening(), 4)
    town = Listening(dumb=[examples[0].input_values["question"][12:-1]])
    strict = replace(pearson(), read=lambda example, prediction: prediction["response"]["score"])
    student, metric, session = watched(town, examples, metric=strict)
    bad, good = (as_rows(examples)[i] for i in (0, 1))
    failed, fine = student(**bad.inputs()), student(**good.inputs())
    assert metric(bad, failed) == NEUTRAL
    assert metric(bad, failed, trace=[]) is False
    assert metric(bad, failed, [], "principles.generate", []).score == NEUTRAL
    assert "No result came" in metric(bad, failed, [], "principles.generate", []).feedback
    assert session.failures == {"UnreadableAnswer": 1}
    assert isinstance(metric(good, fine), float) and isinstance(metric(good, fine, trace=[]), bool)
    assert [list(seen.values) for seen in session.seen.values()] == [[examples[1].id]]


def test_a_metric_that_cannot_be_computed_ends_the_search(tmp_path, nobody):
    def broken(example, prediction):
        raise ZeroDivisionError("a mistake in the metric")

    examples = make_examples(Listening(), 4)
    metric = Metric("broken", "pearson", broken, label="human_score")
    student, example_metric, session = watched(Listening(), examples, metric=pearson())
    example_metric._metric = metric
    row = as_rows(examples)[0]
    with pytest.raises(Halt):
        example_metric(row, student(**row.inputs()))
    assert isinstance(session.stopped_by, ZeroDivisionError)
    with pytest.raises(Halt):
        student(**row.inputs())


def test_a_spent_budget_is_no_exception_that_an_optimizer_could_swallow():
    examples = make_examples(Listening(), 2)
    student, _, session = watched(Listening(), examples, budget=Budget(max_calls=2))
    with pytest.raises(Halt):
        student(**as_rows(examples)[0].inputs())
    assert isinstance(session.stopped_by, BudgetSpent) and not isinstance(Halt(), Exception)


@pytest.mark.parametrize("optimizer", ["bootstrap_random_search", "gepa", "mipro_v2"])
def test_a_budget_ends_the_optimizer_and_leaves_the_decision_its_part(tmp_path, nobody, optimizer):
    town, writer = Listening(), Writer()
    options = {"bootstrap_random_search": {"num_candidate_programs": 30}, "gepa": {"max_metric_calls": 5000}}
    found, _ = tuned(
        optimizer,
        tmp_path,
        town,
        writer=writer,
        budget=Budget(max_calls=900),
        concurrency=2,
        options=options.get(optimizer, {"num_trials": 100}),
    )
    report = found.report
    assert sum(town.stages.values()) + len(writer.prompts) <= 900
    assert f"{optimizer} ended early: the search has spent its part" in report.stopped
    assert report.rounds[0]["is_cut_off"] and len(report.trials) > 1
    assert report.decision.start is not None and report.test["before"].n == 30


def test_a_budget_that_is_too_small_says_so_and_returns_the_start(tmp_path, nobody):
    town = Listening()
    found, program = tuned("gepa", tmp_path, town, budget=Budget(max_calls=240))
    assert not found.report.improved
    assert "too small to search with" in found.report.stopped
    assert sum(town.stages.values()) <= 240
    assert found.dump_state() == program.dump_state()


@pytest.mark.slow
def test_calls_in_threads_are_kept_so_that_the_same_again_pays_nothing(tmp_path, nobody, capsys):
    town, options = Listening(), {"options": SMALL["bootstrap_random_search"], "concurrency": 4}
    first, program = tuned("bootstrap_random_search", tmp_path, town, **options)
    n_calls = sum(town.stages.values())
    assert first.report.costs["calls"] == n_calls
    again, _ = tuned("bootstrap_random_search", tmp_path, town, **options)
    assert sum(town.stages.values()) == n_calls
    assert again.dump_state() == first.dump_state()
    assert again.report.decision == first.report.decision
    # The program that was given is as it was, what DSPy prints is in a file, and the report is too.
    assert program.dump_state() == make_program(town).dump_state() and "report" not in vars(program)
    shown = capsys.readouterr()
    assert shown.out == "" and "Average Metric" not in shown.err
    assert "Scores so far" in (tmp_path / "run" / "optimizer.log").read_text("utf-8")
    written = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(again.report.to_json()))
    assert written["trials"][0]["name"] == "start"
    assert all(t["low"] <= t["value"] <= t["high"] for t in written["trials"])


@pytest.mark.slow
def test_rounds_fit_the_example_metric_anew_around_the_best(tmp_path, nobody):
    town = Listening()
    found, _ = tuned(
        "mipro_v2", tmp_path, town, options={"rounds": 2, "num_trials": 4}, sets=splits(town, 16, 60, 10)
    )
    assert [r["round"] for r in found.report.rounds] == [1, 2], "the first round found nothing"
    assert {t["round"] for t in found.report.trials} <= {0, 1, 2}
    log = (tmp_path / "run" / "optimizer.log").read_text("utf-8")
    starts = [float(part.partition("\n")[0]) for part in log.split("Default program score: ")[1:]]
    assert starts == pytest.approx(
        [100 * NEUTRAL] * 2, abs=0.5
    )  # each round's incumbent is the middle of its scale


def test_promising_programs_come_first_whatever_rows_they_were_scored_on():
    examples = make_examples(Listening(), 6)
    student, _, session = watched(Listening(), examples)
    scores = [Score(e.id, 3.0, float(e.label_values["human_score"]), e.group) for e in examples]
    best = Scored(student.program, scores, 0.0)
    surrogate = fit(pearson(), scores)
    base = {s.id: surrogate.value(s) for s in scores}
    ids = list(base)
    gains = {"lucky": ids[:1], "steady": ids, "worse": ids}
    for name, gain in (("lucky", 0.2), ("steady", 0.1), ("worse", -0.2)):
        session.seen[name] = Seen({}, 0, {i: base[i] + gain for i in gains[name]})
    ranking = ranked(session, best, surrogate, ["principles.generate"])
    assert [seen for seen, _ in ranking] == [session.seen[name] for name in ("steady", "lucky", "worse")]


def test_optimizers_see_the_chosen_stages_and_reset_no_others():
    student, _, _ = watched(Listening(), make_examples(Listening(), 2), stages=["response.generate"])
    assert [name for name, _ in student.named_predictors()] == ["response.generate"]
    reset = student.reset_copy()
    assert len(reset.program.principles.generate.demos) == len(student.program.principles.generate.demos) > 0
    assert reset.chosen["response.generate"] is reset.program.response.generate
    assert reset.chosen["response.generate"] is not student.program.response.generate


def test_what_is_still_being_run_is_waited_for():
    examples = make_examples(Listening(), 1)
    student, _, session = watched(Listening(delay_seconds=0.0), examples)
    began, go, ended = threading.Event(), threading.Event(), threading.Event()
    inner = student.program.forward

    def slow(**inputs):
        began.set()
        go.wait(5)
        found = inner(**inputs)
        ended.set()
        return found

    student.program.forward = slow
    thread = threading.Thread(target=lambda: student(**as_rows(examples)[0].inputs()))
    thread.start()
    began.wait(5)
    threading.Timer(0.05, go.set).start()
    session.settle()
    assert ended.is_set()
    thread.join()


class Locked(Writer):
    """A writer whose key is wrong."""

    def complete(self, request):
        self.prompts.append("refused")
        raise AuthError("no such key")


class Mumbling(Writer):
    """A writer that never answers in the form that was asked for."""

    def complete(self, request):
        self.prompts.append("mumbled")
        return world._response(request, "hm")


@pytest.mark.parametrize("optimizer", sorted(WRITERS))
def test_a_writer_without_a_key_ends_the_search(tmp_path, nobody, optimizer):
    town, writer = Listening(), Locked()
    with pytest.raises(PrerequisiteError, match=r"every call would fail: .*no such key"):
        tuned(optimizer, tmp_path, town, writer=writer, options=SMALL[optimizer])
    assert 1 <= len(writer.prompts) <= 3


@pytest.mark.parametrize("optimizer", sorted(WRITERS))
def test_a_writer_that_cannot_be_read_leaves_what_is_known(tmp_path, nobody, optimizer):
    town, writer = Listening(), Mumbling()
    found, program = tuned(
        optimizer, tmp_path, town, writer=writer, sets=splits(town, 8, 24, 12), options=SMALL[optimizer]
    )
    assert writer.prompts
    assert found.report.decision.start is not None and found.report.test["before"].n == 12
    assert (
        found.principles.generate.signature.instructions == program.principles.generate.signature.instructions
    )


def test_mipros_first_set_of_demos_is_the_starts(tmp_path, nobody):
    town = Listening()
    found, program = tuned("mipro_v2", tmp_path, town, options={"num_candidates": 2, "num_trials": 4})
    seeds = [dict(d) for d in program.principles.generate.demos]
    worded = [c["program"].principles.generate for c in found.candidate_programs]
    start = program.principles.generate.signature.instructions
    assert any([dict(d) for d in p.demos] == seeds and p.signature.instructions != start for p in worded)


@pytest.mark.parametrize(
    ("optimizer", "options", "error", "said"),
    [
        ("mipro", {}, UnknownNameError, "unknown optimizer 'mipro'; known: bootstrap_few_shot, .*mipro_v2"),
        (
            "gepa",
            {"auto": "light"},
            UnknownNameError,
            "unknown option of gepa 'auto'; known: .*max_metric_calls",
        ),
        (
            "gepa",
            {"reflection_lm": "offline"},
            UnknownNameError,
            "unknown option of gepa 'reflection_lm'",
        ),
        (
            "copro",
            {"breadth": 1},
            UsageError,
            "option breadth of copro: .* greater than or equal to 2, not 1",
        ),
        (
            "mipro_v2",
            {"num_trials": "many"},
            UsageError,
            "option num_trials of mipro_v2: input should be a valid integer, not 'many'",
        ),
        (
            "mipro_v2",
            {"minibatch": 1},
            UsageError,
            "minibatch of mipro_v2: input should be a valid boolean, not 1",
        ),
        ("simba", {"rounds": 0}, UsageError, "rounds of simba: .* greater than or equal to 1, not 0"),
        (
            "seed_search",
            {"proposal": 3},
            UnknownNameError,
            "unknown option of seed_search 'proposal'; known: .*proposals",
        ),
        (
            "seed_search",
            {"racing": {"batches": 3}},
            UnknownNameError,
            "unknown option of seed_search.racing 'batches'; known: batch",
        ),
        ("seed_search", {"proposals": "many"}, UsageError, "proposals of seed_search: .* not 'many'"),
    ],
)
def test_a_mistake_is_one_clear_line_before_anything_is_paid(tmp_path, optimizer, options, error, said):
    town = Listening()
    with pytest.raises(error, match=said) as caught:
        spri.tune(
            make_program(town),
            metric="pearson",
            optimizer=optimizer,
            run_dir=tmp_path / "run",
            options=options,
            **splits(town),
        )
    assert "\n" not in str(caught.value)
    assert not town.stages


def test_labeled_demos_need_rows_that_hold_what_a_stage_writes(tmp_path, nobody):
    town = Listening()
    sets = {
        name: [e.changed(labels={"human_score": e.label_values["human_score"]}) for e in rows]
        for name, rows in splits(town).items()
    }
    with pytest.raises(
        UsageError, match=r"labeled_few_shot needs training rows that hold what a stage writes \(principles\)"
    ):
        tuned("labeled_few_shot", tmp_path, town, sets=sets)


def test_rows_show_what_people_wrote_and_no_label():
    example = make_example(
        "x",
        {"question": "?"},
        "north",
        labels={"human_score": 3, "oracle_principles": "mind it", "reference_answer": "so"},
    )
    row = as_rows([example])[0]
    assert row.toDict() == {"question": "?", "group": "north", "principles": "mind it", "response": "so"}
    judged = example.changed(inputs={"question": "?", "answer": "this"})
    assert "response" not in as_rows([judged])[0]


def test_tidy_keeps_what_would_be_shown_and_the_group():
    predictor = make_program(Listening()).principles.generate
    predictor.demos = [
        dspy.Example(question="a", principles="b", group="north", human_score=3, augmented=True),
        dspy.Example(question="no output", group="north"),
        dspy.Example(principles="no input"),
    ]
    assert [d.toDict() for d in tidy(predictor)] == [
        {"question": "a", "principles": "b", "augmented": True, "group": "north"}
    ]
