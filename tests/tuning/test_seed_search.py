"""Seed search on programs: better where seeds help, silent where they do not, within budget, with the LMs given."""

import json
import math
import random
import subprocess
import sys

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.errors import LeakError, RunMismatchError, UnknownNameError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.lms.budget import Budget
from spri_dspy.metrics import Metric
from spri_dspy.metrics.mix import metric as mix
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.metrics.readers import own_judgement
from spri_dspy.records import Record
from spri_dspy.tasks import make_example
from spri_dspy.tuning.example_metric import as_rows
from spri_dspy.tuning.experiment import REPORT, Experiment
from spri_dspy.tuning.programs import identity, stages_of
from spri_dspy.tuning.racing.objectives import row_of
from spri_dspy.tuning.racing.race import Row
from spri_dspy.tuning.racing.rounds import Racing
from spri_dspy.tuning.seeds import Pool, Seed, bootstrapped_seeds, labelled_seeds, unique, written_seeds
from tests.tuning.world import (
    HELPFUL,
    Town,
    helpful_rows,
    make_brief,
    make_examples,
    make_program,
    seed_rows,
)

OPTIONS = ("pool", "max_seeds", "sampler", "proposals", "racing")
ONLY_WRITTEN = {"bootstrapped": 0, "proposed": 0}


class Forbidden(dspy.utils.DummyLM):
    """The LM that is configured for everybody, and that nobody may call."""

    def __init__(self):
        super().__init__([])

    def forward(self, *args, **kwargs):
        raise AssertionError("the global LM was called")

    aforward = forward


@pytest.fixture(autouse=True)
def global_lm():
    with dspy.context(lm=Forbidden()):
        yield


def make_search(tmp_path, metric="pearson", **settings):
    pool = Pool(written=helpful_rows(), **ONLY_WRITTEN)
    options = {"pool": pool, "max_seeds": 2, "proposals": 10}
    options |= {name: settings.pop(name) for name in OPTIONS if name in settings}
    return Experiment(metric, options=options, **{"run_dir": tmp_path / "run", **settings})


def tune(tmp_path, *, town=None, n=120, make=make_brief, compiled=None, **settings):
    """A world, the program, and what the search makes of it."""
    town = town or Town(effect=0.46, base=0.05)
    program = make(town)
    search = make_search(tmp_path, **settings)
    return town, program, search.compile(program, **(compiled or {"trainset": make_examples(town, n)}))


def calls(town):
    return sum(town.stages.values())


def seeds_of(program):
    return [demo["principles"] for demo in program.principles.generate.demos]


def n_helpful(program):
    return sum(word in said for said in seeds_of(program) for words in HELPFUL.values() for word in words)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One search that found something, to look at: its folder, world, program and result."""
    folder = tmp_path_factory.mktemp("found")
    with dspy.context(lm=Forbidden()):
        return folder, *tune(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_seeds_that_help_are_found_and_hold_on_the_test_split(tmp_path, seed):
    _, program, tuned = tune(tmp_path, town=Town(effect=0.46, base=0.05, seed=seed), rng_seed=seed)
    report = tuned.report
    assert report.improved, report.decision.reason
    assert report.test["after"].value > report.test["before"].value + 0.2
    assert report.test["difference"].difference > 0
    assert n_helpful(tuned) >= 2 and n_helpful(program) == 0
    assert report.decision.difference.p <= 0.05
    assert tuned.score == report.decision.candidate.value


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_without_an_effect_the_start_comes_back(tmp_path, seed):
    _, program, tuned = tune(tmp_path, town=Town(effect=0, seed=seed), rng_seed=seed, n=72)
    assert not tuned.report.improved
    assert tuned is not program and identity(tuned) == identity(program)
    assert set(tuned.report.test) == {"before"}
    assert tuned.score == tuned.report.decision.start.value


@pytest.mark.slow
def test_without_an_effect_the_start_comes_back_in_95_of_100_searches(tmp_path):
    improved = [
        tune(tmp_path / str(seed), town=Town(effect=0, seed=seed), rng_seed=seed, n=72)[2].report.improved
        for seed in range(500, 540)
    ]
    assert sum(improved) <= 2


@pytest.mark.slow
def test_the_whole_method_is_tuned_with_a_critic_of_its_own(tmp_path):
    pool = Pool(written=helpful_rows(), bootstrapped=1, proposed=1, examples=4)
    world = Town(effect=0.46, base=0.05, seed=2)
    town, program, tuned = tune(tmp_path, town=world, make=make_program, pool=pool)
    assert tuned.report.improved, tuned.report.decision.reason
    for name, predictor in tuned.named_predictors():
        assert predictor.lm is dict(program.named_predictors())[name].lm, name
    assert tuned.response.critique.lm is not tuned.response.generate.lm
    assert {seed.source for seed in tuned.report.pool} == {"start", "written", "bootstrapped", "proposed"}
    assert town.stages["propose_principles"] == 2
    tuned(question="How good is bridge 7 in the north?", group="north")


def test_the_program_that_was_given_is_not_changed(found):
    _, town, program, _ = found
    assert seeds_of(program) == seeds_of(make_brief(town))
    assert "report" not in vars(program) and not getattr(program, "_compiled", False)


def test_the_result_is_what_dspy_s_users_expect(found):
    tuned = found[-1]
    scores = [c["score"] for c in tuned.candidate_programs]
    assert tuned._compiled is True and scores == sorted(scores, reverse=True)
    assert len(tuned.trial_logs) == len(scores) >= 10
    best = tuned.candidate_programs[0]
    assert set(best) >= {"score", "program", "seeds"}
    assert len(best["program"].principles.generate.demos) == len(best["seeds"])
    starts = [c for c in tuned.candidate_programs if n_helpful(c["program"]) == 0]
    assert any(not c["seeds"] for c in starts) and any(len(c["seeds"]) == 4 for c in starts)


def test_a_report_is_kept_beside_the_run_and_is_plain_json(found):
    folder, _, _, tuned = found
    kept = json.loads((folder / "run" / REPORT).read_text())
    assert kept == json.loads(json.dumps(tuned.report.to_json()))
    assert kept["splits"]["train"]["examples"] + kept["splits"]["test"]["examples"] > 0
    assert len(kept["pool"]) == 8 and kept["pool"][0]["source"] == "start"
    assert kept["costs"]["calls"] > 0


def test_groups_see_at_most_so_many_seeds(tmp_path):
    _, _, tuned = tune(tmp_path, max_seeds=1, n=48)
    for candidate in tuned.candidate_programs:
        groups = [demo["group"] for demo in candidate["program"].principles.generate.demos]
        is_start = len(candidate["seeds"]) == 4
        assert is_start or max(map(groups.count, groups), default=0) <= 1


@pytest.mark.parametrize("sampler", ["random", "greedy", "optuna"])
def test_every_sampler_searches(tmp_path, sampler):
    _, _, tuned = tune(tmp_path, sampler=sampler, n=48, proposals=6)
    assert len(tuned.trial_logs) >= 6


def test_the_same_search_comes_to_the_same_result(tmp_path):
    first, again, other = (
        tune(tmp_path / name, n=48, proposals=4, rng_seed=seed)[2].report.to_json()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_starting_again_pays_nothing(found):
    folder, town, program, tuned = found
    paid = calls(town)
    again = make_search(folder).compile(program, trainset=make_examples(town, 120))
    assert calls(town) == paid
    assert again.report.to_json() == tuned.report.to_json()


def test_another_search_in_the_same_place_is_refused(found):
    folder, town, program, _ = found
    with pytest.raises(RunMismatchError, match="settings"):
        make_search(folder, proposals=5).compile(program, trainset=make_examples(town, 120))
    with pytest.raises(RunMismatchError, match="data"):
        make_search(folder).compile(program, trainset=make_examples(town, 80))


@pytest.mark.parametrize("most", [40, 150, 500])
def test_a_budget_is_kept_to_and_the_search_ends_in_order(tmp_path, most):
    town = Town(effect=0.46, base=0.05, delay_seconds=0.0005)
    _, program, tuned = tune(tmp_path, town=town, n=96, budget=Budget(max_calls=most), concurrency=4)
    assert calls(town) <= most + 4
    report = tuned.report
    if most == 40:
        assert not report.improved and "budget" in report.decision.reason and "40" in report.stopped
        assert identity(tuned) == identity(program)
    if most == 500:
        assert report.test and report.trials
    assert report.costs["calls"] == calls(town)


def test_a_larger_budget_goes_on(tmp_path):
    town, program, _ = tune(tmp_path, n=48, budget=Budget(max_calls=40))
    before = calls(town)
    tuned = make_search(tmp_path, budget=Budget(max_calls=5000)).compile(
        program, trainset=make_examples(town, 48)
    )
    fresh, _, whole = tune(tmp_path / "fresh", n=48, budget=Budget(max_calls=5000))
    assert calls(town) == calls(fresh) > before
    assert tuned.report.to_json() == whole.report.to_json()


def test_decision_and_test_are_paid_for_by_the_plan(tmp_path):
    town = Town(effect=0.46, base=0.05)
    _, _, tuned = tune(tmp_path, town=town, n=120, budget=Budget(max_tokens=110 * 500))
    assert tuned.report.test and tuned.report.trials
    assert calls(town) <= 500


@pytest.mark.parametrize("side", ["valset", "testset"])
def test_a_seed_in_validation_or_test_is_a_leak(tmp_path, side):
    town = Town()
    leaked = helpful_rows()[0]
    sets = {"trainset": make_examples(town, 12), "valset": make_examples(town, 40, 100), "testset": []}
    sets[side] = [*sets[side], make_example("x", {"question": leaked["question"]}, "north")]
    with pytest.raises(LeakError, match=r"'seed 5' of 'seeds' and '(validation|test)/x'"):
        make_search(tmp_path).compile(make_brief(town), **sets)
    assert calls(town) == 0
    marked = make_search(tmp_path, allow_leak=True, proposals=2).compile(make_brief(town), **sets)
    assert "exact" in marked.report.to_json()["splits"]["leaks"][0]


def test_seeds_drawn_from_training_are_no_leak(tmp_path):
    town = Town()
    given = {"trainset": make_examples(town, 24), "valset": make_examples(town, 40, 100), "testset": []}
    pool = Pool(bootstrapped=2, proposed=1)
    _, _, tuned = tune(tmp_path, town=town, make=make_program, compiled=given, pool=pool, proposals=3)
    made = [seed for seed in tuned.report.pool if seed.source in ("bootstrapped", "proposed")]
    assert made and all(seed.origin.startswith("train/") for seed in made)
    assert tuned.report.test == {}


def test_state_goes_to_a_fresh_process_with_other_lms(found, tmp_path):
    tuned = found[-1]
    path = tmp_path / "tuned.json"
    tuned.save(path)
    assert "town/" not in path.read_text()
    code = (
        "import sys, json\n"
        "from tests.tuning.world import Brief, make_task\n"
        "program = Brief(make_task()).set_lms(base='offline?seed=3')\n"
        "program.load(sys.argv[1])\n"
        "shown = [demo['principles'] for demo in program.principles.generate.demos]\n"
        "print(json.dumps([shown, str(program.get_lm().spec)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [seeds_of(tuned), "offline?seed=3"]


def test_examples_without_a_label_are_not_paid_for(tmp_path):
    town = Town()
    rows = make_examples(town, 96)
    bare = [make_example(e.id, e.input_values, e.group) for e in rows[::3]]
    labelled = [e for e in rows if e.id not in {b.id for b in bare}]
    _, _, tuned = tune(tmp_path, town=town, compiled={"trainset": [*labelled, *bare]}, proposals=2)
    splits = tuned.report.splits
    assert sum(splits[name]["examples"] for name in ("search", "holdout", "test")) < 64
    assert splits["train"]["examples"] >= 15
    assert tuned.report.decision.start.dropped == tuned.report.test["before"].dropped == 0


def test_an_lm_that_obeys_no_budget_is_refused_before_anything_is_paid(tmp_path):
    town = Town()
    with pytest.raises(UsageError, match="obeys no budget"):
        tune(tmp_path, town=town, n=48, budget=Budget(max_calls=9), prompt_lm=dspy.utils.DummyLM([]))
    assert calls(town) == 0


def test_dspy_examples_do_as_well(tmp_path):
    town = Town(effect=0.46, base=0.05)
    rows = [
        dspy.Example(id=e.id, group=e.group, **e.input_values, **e.label_values).with_inputs("question")
        for e in make_examples(town, 48)
    ]
    _, _, ours = tune(tmp_path / "ours", n=48, proposals=4)
    _, _, theirs = tune(tmp_path / "theirs", town=town, compiled={"trainset": rows}, proposals=4)
    assert ours.report.trials == theirs.report.trials


def test_a_teacher_s_answers_become_seeds(tmp_path):
    town, teacher_town = Town(), Town(seed=7)
    teacher_town.said = lambda request, said=teacher_town.said: said(request).replace(
        "Insight", "Teaching, Insight"
    )
    teacher = make_program(teacher_town).set_lms(base=teacher_town.lm("town/teacher"))
    given = {"trainset": make_examples(town, 72), "teacher": teacher}
    pool = Pool(bootstrapped=1, proposed=0, examples=3)
    _, _, tuned = tune(tmp_path, town=town, make=make_program, compiled=given, pool=pool, proposals=3)
    made = [seed.demo["principles"] for seed in tuned.report.pool if seed.source == "bootstrapped"]
    assert made and all(said.startswith("Teaching") for said in made)


def test_a_proposer_of_one_s_own_writes_the_new_seeds(tmp_path):
    town, writer = Town(), Town(seed=8)
    pool = Pool(bootstrapped=0, proposed=2, examples=4)
    tune(tmp_path, town=town, pool=pool, prompt_lm=writer.lm("town/writer"), n=72, proposals=3)
    assert set(writer.stages) == {"propose_principles"} and not town.stages["propose_principles"]


def test_a_mean_is_tuned_by_a_mean(tmp_path):
    metric = Metric("level", "mean", own_judgement)
    _, _, tuned = tune(tmp_path, metric=metric, n=48, proposals=4)
    assert tuned.report.metric == "level" and not math.isnan(tuned.score)


def test_any_function_chooses_its_winner(tmp_path):
    def agreement(scores):
        """Share of the examples within one point of people."""
        pairs = [(s.value, s.label) for s in scores if s.value is not None]
        return sum(abs(x - y) <= 1 for x, y in pairs) / len(pairs) if pairs else math.nan

    metric = Metric.of_scores(agreement, label="human_score", surrogate="pearson")
    _, _, tuned = tune(tmp_path, metric=metric, n=72, proposals=4)
    assert tuned.report.rounds[-1]["race"] == "finalists, by the metric itself"
    assert tuned.report.decision.start.name == "agreement"


def test_reappraisal_is_tuned_by_a_judge_without_any_model(tmp_path):
    task = spri.load_task("reappraisal")
    rows = [
        make_example(
            f"{n}",
            {"post": f"Case {n}: {e.input_values['post']}", "aim": e.input_values["aim"]},
            e.group,
            f"{n}",
            e.label_values,
        )
        for n, e in enumerate(list(task.examples()) * 3)
    ]
    program = spri.SPRI(task, max_critiques=1).set_lms(base="offline")
    options = {
        "pool": Pool(bootstrapped=1, proposed=1, examples=2),
        "proposals": 2,
        "racing": Racing(batch=2, share=1.0),
    }
    judge = load_judge("reappraisal").set_lms("offline")
    search = Experiment(mix(judge=judge), options=options, run_dir=tmp_path / "run", allow_leak=True)
    tuned = search.compile(program, trainset=rows[:4], valset=rows[4:30], testset=rows[30:])
    assert tuned.report.metric == "mix" and tuned.report.decision.start.n > 0
    judged = list((tmp_path / "run" / "trials").glob("*/judged/reappraisal/records.jsonl"))
    assert len(judged) == len(tuned.report.trials)


def test_too_few_examples_to_decide_on_are_refused_before_anything_is_paid(tmp_path):
    town = Town()
    with pytest.raises(UsageError, match="at least 6 are needed"):
        tune(tmp_path, town=town, n=16)
    unlabelled = [make_example(e.id, e.input_values, e.group) for e in make_examples(town, 80)]
    with pytest.raises(UsageError, match="0 clusters"):
        tune(tmp_path / "b", town=town, compiled={"trainset": unlabelled})
    assert calls(town) == 0


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"stages": ["principles.write"]}, UnknownNameError, "principles.generate"),
        ({"stages": []}, UsageError, "at least one stage"),
        ({"sampler": "genetic"}, UnknownNameError, "greedy, mixed"),
        (
            {"proposals": 0},
            UsageError,
            "option proposals of seed_search: .* greater than or equal to 1, not 0",
        ),
        ({"metric": "accuracy"}, UnknownNameError, "pearson"),
        ({"pool": {"written": [{"question": "q", "rule": "r"}]}}, UsageError, "written seed 1 fits no stage"),
        ({"max_seeds": -1}, UsageError, "max_seeds.* greater than or equal to 0, not -1"),
        ({"holdout": 1.0}, UsageError, "holdout must lie in"),
        ({"level": 0}, UsageError, r"level in \(0, 1\], not 0.5 and 0"),
        ({"rollouts": 0}, UsageError, "at least 1"),
        ({"concurrency": 0}, UsageError, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, error, said):
    town = Town()
    with pytest.raises(error, match=said) as caught:
        tune(tmp_path, town=town, n=72, **settings)
    assert "\n" not in str(caught.value) and not calls(town)


def test_compile_takes_no_unknown_settings(tmp_path):
    with pytest.raises(UsageError, match="compile takes no max_errors"):
        make_search(tmp_path).compile(make_brief(Town()), trainset=[], max_errors=3)


def test_a_pool_is_checked():
    with pytest.raises(UsageError, match="bootstrapped of a pool must be 0 or more"):
        Pool(bootstrapped=-1)


def made_record(name, group="north", reasons=None, principles="p", error=None):
    outputs = {"principles": principles, "response": {"score": 3}} if error is None else {}
    stops = {"principles": "accepted", "response": "accepted"} if reasons is None else reasons
    return Record(name, {"question": f"q {name}"}, outputs, stops, group=group, cluster=name, error=error)


def test_bootstrapped_seeds_were_accepted_and_went_well():
    stages = stages_of(make_program(Town()), ["principles.generate"])
    records = [
        made_record("best"),
        made_record("good"),
        made_record("fair"),
        made_record("poor"),
        made_record("exhausted", reasons={"principles": "exhausted"}),
        made_record("failed", error="CallError: x"),
        made_record("unknown"),
        made_record("south", group="south"),
    ]
    goodness = [0.9, 0.8, 0.5, 0.1, 1.0, None, None, 0.0]
    found = bootstrapped_seeds(records, goodness, stages, 2)
    assert [(s.origin, s.group) for s in found] == [("best", "north"), ("good", "north"), ("south", "south")]
    assert found[0].demo == {"question": "q best", "principles": "p", "group": "north"}
    nothing_known = bootstrapped_seeds(records, [None] * 8, stages, 9)
    assert {s.origin for s in nothing_known} == {"best", "good", "fair", "poor", "unknown", "south"}


def test_written_seeds_serve_every_stage_whose_fields_they_have():
    stages = stages_of(make_program(Town()), ["principles.generate", "response.generate"])
    whole = {"question": "q", "principles": "p", "response": {"feedback": "f", "score": 3}}
    assert [s.stage for s in written_seeds([whole], stages)] == ["principles.generate", "response.generate"]
    assert [s.stage for s in written_seeds(seed_rows(["tunnel"]), stages)] == ["principles.generate"] * 2


def test_labelled_seeds_are_training_rows_that_hold_what_a_stage_writes():
    stages = stages_of(make_program(Town()), ["principles.generate"])
    bare = make_examples(Town(), 8)
    whole = [e.changed(labels={**e.label_values, "oracle_principles": f"p {e.id}"}) for e in bare]
    found = labelled_seeds(as_rows([*bare[:3], *whole]), stages, 3, random.Random(0))
    assert [s.group for s in found] == ["north"] * 3 + ["south"] * 3
    assert {(s.source, s.origin, s.demo["principles"]) for s in found} <= {
        ("labelled", e.id, f"p {e.id}") for e in whole
    }
    assert len({s.origin for s in found}) == 6
    assert found == labelled_seeds(as_rows([*bare[:3], *whole]), stages, 3, random.Random(0))
    with pytest.raises(
        UsageError, match=r"no training row holds what principles.generate writes \(principles"
    ):
        labelled_seeds(as_rows(bare), stages, 3, random.Random(0))


def test_what_is_said_of_an_answer_is_shown_to_its_judge_and_never_to_a_critic():
    task = spri.load_task("rubrics")
    answer = {"response": "apple", "human_score": 5, "feedback": "A fruit."}
    (example,) = task.examples([{"id": "i", "instruction": "Name a fruit.", "responses": [answer]}])
    judge, program = load_judge("generic"), spri.SPRI(task)
    (row,) = as_rows([example], [judge.ask["score"].signature])
    assert (row.feedback, row.score) == ("A fruit.", 5)
    for stages in ([program.response.critique], [judge.ask["score"], program.principles.critique], []):
        (row,) = as_rows([example], [each.signature for each in stages])
        assert "feedback" not in row and "score" not in row


def test_a_written_seed_of_an_evaluation_set_is_refused():
    stages = stages_of(make_program(Town()), ["principles.generate"])
    row = {**seed_rows(["tunnel"])[0], "evaluation_only": "TruthfulQA"}
    with pytest.raises(LeakError, match="written seed 1 is of TruthfulQA, an evaluation set"):
        written_seeds([row], stages)


def test_the_same_seed_is_kept_once():
    seed = Seed("s", {"question": "q", "principles": "p"}, None, "written")
    again = Seed("s", {"question": "q", "principles": "p"}, None, "proposed", "train/1")
    other = Seed("s", {"question": "q", "principles": "p"}, "north", "written")
    assert unique([seed, again, other]) == (seed, other)


def test_what_a_race_knows_of_a_row():
    town = Town()
    (example,) = make_examples(town, 1)
    assert row_of(pearson(), example) == Row(float(example.label_values["human_score"]), "north", None)
