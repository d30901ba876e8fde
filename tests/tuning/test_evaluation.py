"""Programs are scored once: across candidates, restarts and judges, within a budget, whoever finishes first."""

import asyncio

import dspy
import pytest

from spri_dspy.errors import BudgetSpent, PrerequisiteError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.lms.budget import Budget
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.scope import Retry
from spri_dspy.metrics import Metric
from spri_dspy.metrics.pearson import metric as pearson
from spri_dspy.metrics.readers import only_score
from spri_dspy.program import models_of
from spri_dspy.records import Score
from spri_dspy.runs import RunDir
from spri_dspy.tasks import make_example
from spri_dspy.tuning.evaluation import Evaluator, Spent
from spri_dspy.tuning.programs import copy_program, identity, resampled
from tests.factories import chat
from tests.tuning.world import Town, helpful_rows, make_brief, make_examples, make_program

CALLS_A_ROW = 2  # of the brief program


@pytest.fixture
def town():
    return Town()


def with_seeds(program, *rows):
    """A copy that shows these seeds only."""
    made = copy_program(program)
    made.principles.generate.demos = [dspy.Example(row) for row in rows]
    return made


def calls(town):
    return sum(town.stages.values())


def test_scores_come_in_order_and_with_labels(town, tmp_path):
    program, examples = make_brief(town), make_examples(town, 6)
    evaluator = Evaluator(pearson(), tmp_path)
    scores, reverse = evaluator.scores([(program, examples), (program, examples[::-1])])
    assert [s.id for s in scores] == [str(i) for i in range(6)]
    assert [s.label for s in scores] == [e.label_values["human_score"] for e in examples]
    assert reverse == scores[::-1]
    assert calls(town) == 6 * CALLS_A_ROW


def test_a_program_with_the_same_prompts_for_a_group_shares_its_scores(town, tmp_path):
    start, examples = make_brief(town), make_examples(town, 8)
    north, south = helpful_rows()[:2], helpful_rows()[2:]
    one, two = with_seeds(start, *north), with_seeds(start, *north, *south)
    evaluator = Evaluator(pearson(), tmp_path)
    first, second = evaluator.scores([(one, examples), (two, examples)])
    run_by_second = [record.id for record in evaluator.records(two, examples)]
    assert first[::2] == second[::2] and first[1::2] != second[1::2]
    assert calls(town) == (8 + 4) * CALLS_A_ROW
    assert run_by_second == ["1", "3", "5", "7"]


def test_a_restart_runs_nothing_again(town, tmp_path):
    examples = make_examples(town, 5)
    asks = lambda: [(make_brief(town), examples)]  # noqa: E731 - a program of its own each time, as after a restart
    evaluator = Evaluator(pearson(), tmp_path)
    first = evaluator.scores(asks())
    assert evaluator.scores(asks()) == first
    evaluator = Evaluator(pearson(), tmp_path)
    assert evaluator.scores(asks()) == first
    assert evaluator.spent() == Spent(10, 1100, 0.0)
    assert calls(town) == 5 * CALLS_A_ROW


def test_every_program_has_a_run_that_can_be_read(town, tmp_path):
    program, examples = make_brief(town), make_examples(town, 3)
    evaluator = Evaluator(pearson(), tmp_path)
    evaluator.scores([(program, examples)])
    records = evaluator.records(program, examples[::-1])
    run = RunDir.read(tmp_path / "trials" / identity(program))
    assert run.manifest["metric"]["name"] == "pearson" and run.manifest["models"] == {"base": "town/base"}
    assert {r.id for r in run.records()} == {"0", "1", "2"}
    assert [r.id for r in records] == ["2", "1", "0"]


def test_calls_of_all_programs_together_keep_to_the_concurrency(tmp_path):
    town = Town(delay_seconds=0.002)
    start, examples = make_program(town), make_examples(town, 8)
    programs = [with_seeds(start, row) for row in helpful_rows()]
    evaluator = Evaluator(pearson(), tmp_path, concurrency=3)
    evaluator.scores([(program, examples) for program in programs])
    assert 3 <= town.most_in_flight <= 2 * 3  # two LMs


def test_a_budget_is_not_exceeded_by_more_than_what_is_in_flight(tmp_path):
    town = Town(delay_seconds=0.001)
    program, examples = make_brief(town), make_examples(town, 20)
    evaluator = Evaluator(pearson(), tmp_path, budget=Budget(max_calls=15), concurrency=4)
    with pytest.raises(BudgetSpent):
        evaluator.scores([(program, examples[:10]), (with_seeds(program), examples[10:])])
    assert 15 <= calls(town) < 15 + 4
    kept = Evaluator(pearson(), tmp_path).spent().calls
    assert kept == calls(town)
    evaluator = Evaluator(pearson(), tmp_path, budget=Budget(max_calls=100))
    evaluator.scores([(program, examples[:10]), (with_seeds(program), examples[10:])])
    assert evaluator.budget.calls == calls(town) == 40


def test_a_part_of_the_budget_can_be_held_back(town, tmp_path):
    program, examples = make_brief(town), make_examples(town, 4)
    evaluator = Evaluator(pearson(), tmp_path, budget=Budget(max_calls=8), concurrency=1)
    with evaluator.holding_back(Spent(4.4, 0, 0)), pytest.raises(BudgetSpent):
        evaluator.scores([(program, examples)])
    assert calls(town) == 3
    evaluator.scores([(program, examples)])
    assert calls(town) == 8


def test_without_a_budget_nothing_is_held_back(town, tmp_path):
    evaluator = Evaluator(pearson(), tmp_path)
    with evaluator.holding_back(Spent(1e9)):
        evaluator.scores([(make_brief(town), make_examples(town, 1))])


def test_an_lm_that_obeys_no_budget_is_refused_with_one(tmp_path):
    program = make_brief(Town())
    program.set_lm(dspy.utils.DummyLM([{"principles": "x"}]))
    evaluator = Evaluator(pearson(), tmp_path, budget=Budget(max_calls=5))
    with pytest.raises(UsageError, match="obeys no budget"):
        evaluator.scores([(program, [])])
    assert Evaluator(pearson(), tmp_path, budget=Budget()).scores([(program, [])]) == [[]]


async def test_it_works_inside_an_event_loop(town, tmp_path):
    await asyncio.sleep(0)
    evaluator = Evaluator(pearson(), tmp_path)
    (scores,) = evaluator.scores([(make_brief(town), make_examples(town, 2))])
    assert len(scores) == 2


def test_a_fraction_of_failing_examples_have_no_value(town, tmp_path):
    said = town.said
    town.said = lambda request: "" if "bridge 2 " in request.messages[-1].text else said(request)
    evaluator = Evaluator(pearson(), tmp_path)
    (scores,) = evaluator.scores([(make_brief(town), make_examples(town, 4))])
    assert [s.value is None for s in scores] == [False, False, True, False]


def test_a_program_that_always_fails_is_given_up_and_the_others_go_on(town, tmp_path, caplog):
    start, examples = make_brief(town), make_examples(town, 44)
    broken = with_seeds(start, *helpful_rows())
    said = town.said
    town.said = lambda request: "" if "lantern" in str(request.messages) else said(request)
    evaluator = Evaluator(pearson(), tmp_path)
    evaluator.scores([(start, examples)])
    bad, good = evaluator.scores([(broken, examples[::2]), (with_seeds(start), examples)])
    assert all(s.value is None for s in bad) and all(s.value is not None for s in good)
    assert "given up" in caplog.text


def test_a_server_that_fails_ends_everything(town, tmp_path):
    from dspy.lm15 import ServerError

    start, examples = make_brief(town), make_examples(town, 44)
    evaluator = Evaluator(pearson(), tmp_path, retry=Retry(attempts=1))
    evaluator.scores([(start, examples[:2])])

    def down(request):
        raise ServerError("down")

    town.said = down
    with pytest.raises(PrerequisiteError, match="examples failed"):
        evaluator.scores([(with_seeds(start, *helpful_rows()), examples)])


def test_a_start_that_always_fails_ends_everything(town, tmp_path):
    town.said = lambda request: ""
    evaluator = Evaluator(pearson(), tmp_path)
    with pytest.raises(PrerequisiteError):
        evaluator.scores([(make_brief(town), make_examples(town, 40))])


class Stand:
    """A judge's LM whose numbers are planned: one after another, then the last again."""

    def __init__(self, *numbers):
        self.numbers, self.asked = list(numbers), []

    def answer(self, request):
        self.asked.append(request.messages[-1].text)
        number = self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]
        return chat(feedback="so it is", score=number)


def judged_by(stand):
    return Metric("judged", "mean", only_score, load_judge("generic").set_lms(replay_lm(stand)))


def text_program(town):
    """A program whose response is text, for a judge to read."""
    program, said = make_brief(town), town.said
    program.respond.signature = program.respond.signature.with_updated_fields("response", type_=str)
    town.said = lambda request: said(request) if "critique" not in str(request) else ""
    return program


def test_a_judge_scores_what_the_program_wrote(town, tmp_path):
    stand = Stand(4)
    evaluator = Evaluator(judged_by(stand), tmp_path)
    program = text_program(town)
    (scores,) = evaluator.scores([(program, make_examples(town, 3))])
    assert [s.value for s in scores] == [4.0] * 3
    assert len(stand.asked) == 3 and "seen" in stand.asked[0]
    judged = RunDir.read(tmp_path / "trials" / identity(program) / "judged" / "generic")
    assert judged.manifest["judge_version"] == "generic/2" and len(list(judged.records())) == 3


def test_a_noisy_judge_is_asked_again_and_the_program_is_not(town, tmp_path):
    stand = Stand(2, 5)
    evaluator = Evaluator(judged_by(stand), tmp_path, rollouts=2)
    (scores,) = evaluator.scores([(text_program(town), make_examples(town, 1))])
    assert scores[0].value == 3.5
    assert len(stand.asked) == 2 and calls(town) == CALLS_A_ROW
    evaluator = Evaluator(judged_by(stand), tmp_path, rollouts=2)
    assert evaluator.scores([(text_program(town), make_examples(town, 1))])[0] == scores
    assert len(stand.asked) == 2


def test_without_a_judge_the_whole_program_is_sampled_again(town, tmp_path):
    evaluator = Evaluator(pearson(), tmp_path, rollouts=3)
    (scores,) = evaluator.scores([(make_brief(town), make_examples(town, 2))])
    assert calls(town) == 3 * 2 * CALLS_A_ROW
    assert [s.id for s in scores] == ["0", "1"]


def test_fresh_samples_come_from_copies_of_the_same_lm(town):
    program = make_brief(town)
    assert resampled(program, 0) is program
    again = resampled(program, 2)
    lms = {id(p.lm) for _, p in again.named_predictors()}
    assert len(lms) == 1 and again.get_lm() is not program.get_lm()
    assert again.get_lm().kwargs["rollout_id"] == 2
    assert again.get_lm().engine is program.get_lm().engine


def test_the_oracle_s_label_comes_from_the_data_s_rubric(town, tmp_path):
    stand = Stand(5, 1)
    metric = pearson(label="oracle", oracle=load_judge("rubric").set_lms(replay_lm(stand)))
    rows = [
        make_example("a", {"instruction": "do", "answer": "done"}, "g", labels={"rubric": "good or bad"}),
        make_example("b", {"instruction": "do", "answer": "undone"}, "g", labels={"rubric": "good or bad"}),
        make_example("c", {"instruction": "do", "answer": "half"}, "g"),
    ]
    evaluator = Evaluator(metric, tmp_path, concurrency=1)
    labelled = evaluator.labelled(rows)
    assert [metric.label_of(e) for e in labelled] == [5.0, 1.0, None]
    assert evaluator.labelled(rows) == labelled
    assert len(stand.asked) == 2 and "good or bad" in stand.asked[0]
    assert metric.scores([], labelled)[0] == Score("a", None, 5.0, "g", None)


def test_examples_stay_as_they_are_without_an_oracle(tmp_path):
    rows = make_examples(Town(), 2)
    assert Evaluator(pearson(), tmp_path).labelled(rows) == rows


def test_spending_in_dollars_needs_known_prices(town, tmp_path):
    program = make_brief(town)
    evaluator = Evaluator(pearson(), tmp_path, budget=Budget(max_usd=1.0))
    with pytest.raises((UsageError, PrerequisiteError), match="price"):
        evaluator.scores([(program, make_examples(town, 1))])


def test_identity_is_what_decides_answers(town):
    program = make_program(town)
    same = copy_program(program)
    assert identity(program) == identity(same)
    assert identity(with_seeds(program)) != identity(program)
    same.response.accept_at = 5
    assert identity(same) != identity(program)
    other = copy_program(program).set_lms(base=town.lm("town/other"))
    assert identity(other) != identity(program)
    assert models_of(program) == {"base": "town/base", "critic": "town/critic"}
    only_north = with_seeds(program, *helpful_rows()[:2])
    assert identity(only_north, "south") == identity(with_seeds(program), "south")


def test_copies_share_lms_and_drop_what_tuning_left(town):
    program = make_program(town)
    program.candidate_programs, program.score, program.report = [{"program": program}], 1.0, object()
    copied = copy_program(program)
    assert [p.lm for _, p in copied.named_predictors()] == [p.lm for _, p in program.named_predictors()]
    assert not {"candidate_programs", "score", "report"} & set(vars(copied))
    copied.principles.generate.demos.clear()
    assert program.principles.generate.demos
    plain = dspy.utils.DummyLM([{"principles": "x"}])
    program.set_lm(plain)
    assert copy_program(program).get_lm() is plain


def test_costs_say_all_that_was_taken(town, tmp_path):
    evaluator = Evaluator(pearson(), tmp_path)
    assert evaluator.costs() == {"calls": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0}
    evaluator.scores([(make_brief(town), make_examples(town, 2))])
    assert evaluator.costs() == {"calls": 4, "input_tokens": 400, "output_tokens": 40, "usd": None}
    assert (Spent(5, 10, 1.0) - Spent(1, 4, 0.5)).times(0.5) == Spent(2.0, 3.0, 0.25)
