"""What all baselines owe: real rows run through offline, states are kept, other tasks are refused."""

import asyncio
import json
import subprocess
import sys

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.commands.run import RunRequest, plan
from spri_dspy.lookup import names
from spri_dspy.runs import RunDir
from spri_dspy.systems import load_system, view_of
from tests.data import data_file
from tests.systems.heard import ANSWERED, ASKED, POST

POSTS, INSTRUCTIONS = "reappraisal/eval_30.jsonl", "sft/user_instructions_252.jsonl"
ANSWERS, OURS = "rubrics/prometheus_vicuna.jsonl", None

# Task, system, settings, and LM calls of three examples; where the answers decide, the bounds of each example's.
SYSTEMS = [
    ("reappraisal", "vanilla", {}, 3),
    ("reappraisal", "self_refine", {}, 21),
    ("reappraisal", "oracle_principles", {}, 21),
    ("reappraisal", "oracle_principles", {"individual": "true"}, 3),
    ("rubrics", "vanilla", {}, 3),
    ("rubrics", "self_refine", {}, 18),
    ("rubrics", "mt_bench", {}, 3),
    ("rubrics", "flask", {}, 3),
    ("rubrics", "oracle_rubrics", {}, 3),
    ("rubrics", "seed_principles", {}, 3),
    ("rubrics", "seed_principles", {"which": "all"}, 3),
    ("rubrics", "checklist", {}, (2, 13)),
    ("rubrics", "spct", {}, 12),
    ("rubrics", "spct", {"k": "2"}, 6),
    ("rubrics", "metrics", {}, 6),
    ("rubrics", "rrd", {}, (10, 200)),
    ("rubrics", "rrd", {"samples": "2", "most": "2", "depth": "0"}, (6, 20)),
    ("sft", "vanilla", {}, 3),
    ("sft", "direct", {}, 3),
    ("sft", "self_instruct", {}, 3),
    ("sft", "self_align", {}, 3),
    ("sft", "self_refine", {}, (2, 8)),
    ("sft", "seed_principles", {}, 3),
    ("sft", "oracle_response", {}, 0),
]
NAMES = ["-".join([task, system, *settings.values()]) for task, system, settings, _ in SYSTEMS]
every_system = pytest.mark.parametrize(("task", "system", "settings", "calls"), SYSTEMS, ids=NAMES)


def rows_for(task, system):
    files = {"reappraisal": POSTS, "rubrics": ANSWERS, "sft": INSTRUCTIONS}
    return OURS if system == "flask" else data_file(files[task])


def run(path, task, system, settings=None, **request):
    """Three examples, offline; the records."""
    asked = RunRequest(
        task=task,
        system=system,
        settings=settings or {},
        data=rows_for(task, system),
        limit=3,
        lms={"base": "offline"},
        **request,
    )
    planned = plan(asked)
    with planned.open(path) as directory:
        summary = planned.execute(directory)
    assert (summary.done, summary.failed) == (3, 0)
    return list(RunDir.read(path).records())


@every_system
@pytest.mark.parametrize("paper", [False, True], ids=["ours", "paper"])
def test_three_real_rows_run_offline(tmp_path, task, system, settings, calls, paper):
    records = run(tmp_path / "run", task, system, settings, paper=paper)
    made = [sum(used.calls + used.cached for used in record.usage.values()) for record in records]
    assert sum(made) == calls if isinstance(calls, int) else all(calls[0] <= n <= calls[1] for n in made)
    for record in records:
        response = record.outputs["response"]
        if task == "rubrics":
            assert response["feedback"].strip() and 1 <= response["score"] <= 5
        else:
            assert response.strip()
    gives_principles = not {"vanilla", "direct", "self_refine", "self_instruct", "oracle_response"} & {system}
    assert all(("principles" in record.outputs) is gives_principles for record in records)


@pytest.mark.parametrize(
    "system", ["vanilla", "self_refine", "mt_bench", "oracle_rubrics", "seed_principles"]
)
def test_judges_are_shown_the_reference_on_request(tmp_path, system):
    records = run(tmp_path / "run", "rubrics", system, task_options={"with_reference": True})
    assert all(record.inputs["reference_answer"] for record in records)


@every_system
def test_saved_wording_and_demos_come_back(tmp_path, task, system, settings, calls):
    program = load_system(system, spri.load_task(task), **settings)
    for _, predictor in program.named_predictors():
        predictor.signature = predictor.signature.with_instructions("Say it plainly.")
        predictor.demos = [*predictor.demos, dspy.Example(instruction="q", response="a")]
    program.save(tmp_path / "program.json")
    fresh = load_system(system, spri.load_task(task), **settings).set_lms(base="offline")
    lms = [predictor.lm for _, predictor in fresh.named_predictors()]
    fresh.load(tmp_path / "program.json")
    for (_, ours), (_, theirs), lm in zip(
        fresh.named_predictors(), program.named_predictors(), lms, strict=True
    ):
        assert ours.signature.instructions == "Say it plainly."
        assert [dict(demo) for demo in ours.demos] == [dict(demo) for demo in theirs.demos]
        assert ours.lm is lm


def asked_of(program, task):
    inputs = {"reappraisal": POST, "rubrics": ANSWERED, "sft": ASKED}[task]
    rubric = {"criteria": "c"} | {f"score{n}_description": f"d{n}" for n in range(1, 6)}
    labels = {"oracle_principles": "p", "rubric": rubric, "reference_answer": "r"}
    labels |= {"preferred_response": "Blue light is scattered.", "rejected_response": "No."}
    return inputs | {name: labels[name] for name in program.label_inputs}


@every_system
def test_copies_and_async_calls_answer_alike(task, system, settings, calls):
    program = load_system(system, spri.load_task(task), **settings).set_lms(base="offline")
    inputs = asked_of(program, task)
    group = "reasoning" if task == "rubrics" else None
    first = program(group=group, **inputs)
    assert asyncio.run(program.acall(group=group, **inputs)).toDict() == first.toDict()
    assert program.deepcopy()(group=group, **inputs).response == first.response


@every_system
def test_missing_inputs_are_refused_by_name(task, system, settings, calls):
    program = load_system(system, spri.load_task(task), **settings)
    inputs = asked_of(program, task)
    for name in inputs.keys() - program.defaults.keys():
        with pytest.raises(spri.UsageError, match=f"missing {name}"):
            program(**{key: value for key, value in inputs.items() if key != name})


@pytest.mark.parametrize(
    ("system", "tasks"),
    [
        ("oracle_principles", ["reappraisal"]),
        ("mt_bench", ["rubrics"]),
        ("flask", ["rubrics"]),
        ("oracle_rubrics", ["rubrics"]),
        ("direct", ["sft"]),
        ("self_instruct", ["sft"]),
        ("self_align", ["sft"]),
        ("oracle_response", ["sft"]),
        ("seed_principles", ["rubrics", "sft"]),
        *((name, ["rubrics"]) for name in ("checklist", "spct", "metrics", "rrd", "contrastive")),
    ],
)
def test_other_tasks_are_refused_with_the_right_one_named(system, tasks):
    for task in {"reappraisal", "rubrics", "sft"} - set(tasks):
        with pytest.raises(
            spri.UsageError, match=f"{system} is for the tasks? {' and '.join(tasks)}, not for {task}"
        ):
            load_system(system, spri.load_task(task))


@pytest.mark.parametrize(("system", "task"), [("vanilla", "sft"), ("mt_bench", "rubrics")])
def test_dspy_optimisers_fill_the_demos_and_leave_the_lm(system, task):
    program = load_system(system, spri.load_task(task)).set_lms(base="offline")
    lm = program.generate.lm
    example = dspy.Example(**asked_of(program, task), response="so").with_inputs(*program.inputs)
    tuned = dspy.LabeledFewShot(k=1).compile(program, trainset=[example])
    assert [demo.response for demo in tuned.generate.demos] == ["so"]
    assert tuned.generate.lm is lm
    assert tuned(**asked_of(program, task)).response


OWN_CRITERIA = ["checklist", "spct", "metrics", "rrd", "contrastive"]


@pytest.mark.parametrize("system", OWN_CRITERIA)
def test_bootstrapped_demos_fill_systems_with_criteria_of_their_own(tmp_path, system):
    task = spri.load_task("rubrics")
    program = load_system(system, task).set_lms(base="offline")
    example = dspy.Example(**asked_of(program, task.name)).with_inputs(*program.inputs, *program.label_inputs)
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=1, max_labeled_demos=0)
    tuned = optimizer.compile(program, trainset=[example])
    demos = {name: len(predictor.demos) for name, predictor in tuned.named_predictors()}
    assert demos["contrast" if system == "contrastive" else "write" if system == "rrd" else "generate"] == 1
    assert {predictor.lm.spec.model for _, predictor in tuned.named_predictors()} == {"offline"}
    tuned.save(tmp_path / "program.json")
    again = load_system(system, task).set_lms(base="offline")
    again.load(tmp_path / "program.json")
    assert {name: len(predictor.demos) for name, predictor in again.named_predictors()} == demos
    assert again(**asked_of(program, task.name))["principles"] is not None


VIEWS = {
    **dict.fromkeys(["spct", "rrd"], "responses"),
    **dict.fromkeys(["oracle_rubrics", "oracle_principles", "oracle_response", "contrastive"], "labels"),
}


@every_system
def test_every_system_states_what_it_sees(task, system, settings, calls):
    program = load_system(system, spri.load_task(task), **settings)
    assert program.sees == view_of(program) == VIEWS.get(system, "input")
    assert not program.label_inputs or program.sees == "labels"


def test_built_in_systems_all_have_a_view_that_was_thought_about():
    named = {system for _, system, _, _ in SYSTEMS}
    assert named | {"spri", "contrastive"} == set(names("spri_dspy.systems", "system"))


def test_view_of_a_system_of_ones_own_is_derived_from_its_labels_and_checked():
    program = load_system("oracle_rubrics", spri.load_task("rubrics"))
    program.sees = "input"
    assert view_of(program) == "labels"
    program.label_inputs, program.sees = (), "everything"
    with pytest.raises(spri.UsageError, match="one of input, responses, labels, not 'everything'"):
        view_of(program)


def test_manifest_says_what_a_system_sees(tmp_path):
    run(tmp_path / "run", "rubrics", "spct", {"k": "1"})
    assert RunDir.read(tmp_path / "run").manifest["sees"] == "responses"


def test_run_of_before_views_were_noted_is_resumed(tmp_path):
    run(tmp_path / "run", "rubrics", "vanilla")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["sees"]
    path.write_text(json.dumps(manifest), "utf-8")
    planned = plan(RunRequest(task="rubrics", system="vanilla", data=rows_for("rubrics", "vanilla"), limit=3))
    with planned.open(tmp_path / "run") as directory:
        assert len(directory.finished()) == 3


def test_command_line_runs_a_baseline(tmp_path):
    command = [
        "run",
        "rubrics",
        "--system",
        "flask",
        "--limit",
        "3",
        "--run",
        str(tmp_path / "run"),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from spri_dspy.cli import main; main()", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["outputs"]["response"]["score"] in range(1, 6) for record in records] == [True] * 3


def test_flask_judges_real_instances_by_their_capability(tmp_path):
    """BiGGen rows have a capability and no answers: their reference answers are judged."""
    lines = data_file("rubrics/biggen_765.jsonl").read_text(encoding="utf-8").splitlines()
    real = [json.loads(line) for line in lines]
    scored = [row for row in real if row["capability"] != "multilingual"][::200][:3]
    rows = [{**row, "response": row["reference_answer"]} for row in scored]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = RunRequest(task="rubrics", system="flask", data=tmp_path / "rows.jsonl", lms={"base": "offline"})
    planned = plan(asked)
    with planned.open(tmp_path / "run") as directory:
        summary = planned.execute(directory)
        assert (summary.done, summary.failed) == (3, 0)
        assert all(1 <= record.outputs["response"]["score"] <= 5 for record in directory.records())
