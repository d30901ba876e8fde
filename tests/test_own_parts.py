"""Parts of one's own: a task, systems, judges, metrics and an optimizer as files outside the package, used everywhere.

Each is one short file in a folder of its own, named as path/to/file.py:NAME or installed as an entry point, and goes
through `spri run`, `spri judge`, `spri tune`, `python -m benchmarks` and Python without anything else being written.
"""

import json
import os
import sys

import dspy
import pytest

import spri_dspy as spri
from benchmarks import compare, grid, tables
from spri_dspy.runs import RunDir
from spri_dspy.tuning.optimizers import load_optimizer
from tests.command import assert_refused, process
from tests.command import spri as command
from tests.table_parts import command as benchmark

TASK = '''
"""Notices for a notice board."""
from spri_dspy.signatures import Stages
from spri_dspy.tasks import Task
from spri_dspy.tasks.fields import optional_text, text

INPUTS = {"matter": "what the notice is about"}


def read_row(row, number):
    liked = {"human_score": row.get("liked")}
    return [{"id": f"n{number}", "matter": text(row, "matter"), "group": optional_text(row, "where"), **liked}]


notices = Task(
    name="notices",
    inputs=INPUTS,
    stages=Stages.build(INPUTS, wording={"generate_response": "Write the notice. Follow the principles."}),
    seeds=({"matter": "a lost glove", "principles": "Say where it was found.\\nSay whom to ask."},),
    read_row=read_row,
    text_input="matter",
)
'''
SYSTEMS = '''
"""Two systems: one that drafts twice, and one with a setting."""
from spri_dspy.predict import RolePredict
from spri_dspy.program import Program


class Twice(Program):
    def __init__(self, task):
        super().__init__(task)
        self.inputs = tuple(task.inputs)
        named = ", ".join(self.inputs)
        self.draft = RolePredict(f"{named} -> principles")
        self.final = RolePredict(f"{named}, principles -> response")

    def plan(self, inputs, group=None):
        draft = yield self.draft, dict(inputs)
        final = yield self.final, {**inputs, "principles": draft.principles}
        return {"principles": draft.principles, "response": final.response}


class Once(Twice):
    def __init__(self, task, *, paper=False, rule: str = "Be brief."):
        super().__init__(task)
        self.rule = rule

    def plan(self, inputs, group=None):
        final = yield self.final, {**inputs, "principles": self.rule}
        return {"response": final.response}
'''
JUDGES = '''
"""A judge that is a function, and one that asks an LM."""
from typing import Literal

import spri_dspy as spri
from spri_dspy.judges import make_signature


def brevity(answer, n_words: int = 30):
    return max(1, 5 - len(answer.split()) // n_words)


class Tone(spri.Judge):
    name, version, inputs = "tone", "tone/1", ("instruction", "answer")

    def __init__(self, samples: int = 1):
        shown = {"instruction": "what the notice is about", "answer": "the notice"}
        wanted = {"feedback": (str, "why"), "warmth": (Literal[1, 2, 3, 4, 5], "how warm it is, 1 to 5")}
        asked = make_signature("Warmth", "Say how warm the notice is.", shown, **wanted)
        super().__init__([spri.Criterion("warmth", asked, "warmth")], samples=samples)
'''
BARE = '''
"""A judge that is any module of DSPy's."""
import dspy


class Bare(dspy.Module):
    name, version, inputs, optional = "bare", "bare/1", ("instruction", "answer"), ()

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("instruction, answer -> warmth: Literal[1, 2, 3, 4, 5]")

    async def aforward(self, group=None, **shown):
        said = await self.ask.acall(**shown)
        return dspy.Prediction(scores={"warmth": said.warmth}, judgement="", usage={})
'''
METRICS = '''
"""A metric of one example, and one over a set."""
import spri_dspy as spri


def named(example, prediction, trace=None):
    words = example.inputs().toDict()
    text = next(str(value) for name, value in words.items() if name != "group")
    return float(text.split()[-1].strip(".") in str(prediction.response))


def spread(examples, predictions):
    lengths = [len(str(prediction.response)) for prediction in predictions]
    return (max(lengths) - min(lengths)) / max(lengths)


def least(scores):
    return min(score.value for score in scores)


def lowest(*, judge):
    return spri.Metric.of_scores(least, judge=judge)
'''
OPTIMIZER = '''
"""Tries the start's seeds one fewer at a time, and one of its own."""


def drop_seeds(context, *, most: int = 2):
    seeds = list(dict(context.start.named_predictors())["{STAGE}"].demos)
    own = {"matter": "a lost key", "principles": "Say which door it opens.", "response": "Found: a key."}
    for n in range(1, most + 1):
        program = context.program({"{STAGE}": [*seeds[n:], *[own] * n]})
        context.score(program)
        yield program
'''
FILES = {
    "notices": TASK,
    "drafts": SYSTEMS,
    "tones": JUDGES,
    "bare": BARE,
    "counts": METRICS,
    "seeds_off": OPTIMIZER.replace("{STAGE}", "principles.generate"),
    "drafts_off": OPTIMIZER.replace("{STAGE}", "final"),
}
MATTERS = "glove scarf umbrella bicycle kitten kettle piano wallet ladder parcel lantern violin"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder outside the package with a file of each kind and one of rows; the name of a part in it."""
    folder = tmp_path / "my parts"
    folder.mkdir()
    for name, text in FILES.items():
        assert text.count("\n") <= 32, name
        (folder / f"{name}.py").write_text(text.lstrip(), "utf-8")
    rows = [
        {"matter": f"{what} {kind}", "liked": 1 + (n + m) % 5, "where": ("hall", "yard")[n % 2]}
        for n, kind in enumerate(MATTERS.split())
        for m, what in enumerate(("a meeting about the", "someone has lost a", "for sale, hardly used: one"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    monkeypatch.chdir(tmp_path)
    return lambda name: str(folder / name.replace(":", ".py:", 1))


def ran(mine, *options, limit=3):
    """`spri run` of the task into `r`, which must go well."""
    data = ("--data", mine("rows.jsonl"), "--limit", limit, "--run", "r")
    code, out, err = command("run", mine("notices:notices"), *data, *options)
    assert code == 0, err
    return RunDir.read("r"), out


# A task and systems


@pytest.mark.parametrize("system", ["spri", "vanilla", "self_refine", "drafts:Twice", "drafts:Once"])
def test_a_task_and_a_system_run(mine, system):
    run, out = ran(mine, "--system", mine(system) if ":" in system else system)
    assert "3 done, 0 failed" in out
    records = list(run.records())
    assert all(record.ok and record.outputs["response"] for record in records)
    assert {record.id for record in records} == {"n1", "n2", "n3"}
    assert all(record.group == "hall" and record.labels["human_score"] for record in records)


def test_a_system_takes_its_settings_and_says_which_it_has(mine):
    system = ("--system", mine("drafts:Once"))
    ran(mine, *system, "--set", "rule=Be kind.")
    there = ("run", mine("notices:notices"), "--data", mine("rows.jsonl"), *system, "--set")
    assert_refused(command(*there, "rules=x"), 2, "unknown setting of the system", "'rules'; known: rule")


def test_a_system_of_ones_own_runs_and_is_saved_in_python(mine, tmp_path):
    task = spri.load_task(mine("notices:notices"))
    program = spri.load_system(mine("drafts:Twice"), task).set_lms(base="offline")
    examples = list(task.examples(mine("rows.jsonl")))[:3]
    assert program(**examples[0].inputs()).response
    assert spri.run_bulk(program, examples, tmp_path / "bulk").done == 3
    program.save(tmp_path / "saved.json")
    assert spri.load_program(spri.load_system(mine("drafts:Twice"), task), tmp_path / "saved.json")
    assert spri.SPRI(task).set_lms(base="offline")(**examples[1].inputs()).stop_reasons


def test_a_system_is_a_row_of_a_table(mine, tmp_path, capsys):
    own = f"{mine('drafts:Once')}:rule=Be brief and kind."
    named = ("--systems", f"vanilla,{own},{mine('drafts:Twice')}", "--limit", 2, "--runs", tmp_path / "runs")
    code, out, err = benchmark(capsys, "reappraisal", *named, "--json")
    assert code == 0, err
    results = json.loads(out)["reappraisal"]["results"]
    assert [each["system"] for each in results] == ["vanilla", own, mine("drafts:Twice")]
    assert [each["asked"] - each["failed"] for each in results] == [2, 2, 2]
    code, _, err = benchmark(capsys, "reappraisal", "--systems", f"{mine('drafts:Thrice')}")
    assert code == 2 and "'Thrice'; known: Once, Program, RolePredict, Twice" in err


# A table of all of them


COMPARED = ("--metric", "counts:named", "--metric", "counts:spread", "--metric", "counts:lowest")


@pytest.mark.parametrize("judge", ["tones:brevity", "tones:Tone", "bare:Bare"])
def test_task_systems_judge_and_metrics_make_a_table(mine, judge, tmp_path, capsys):
    parts = [mine(part) if ":" in part else part for part in (*COMPARED, "--judge", judge)]
    systems = f"vanilla,{mine('drafts:Twice')}"
    asked = ("compare", mine("notices:notices"), "--data", mine("rows.jsonl"), "--systems", systems, *parts)
    code, out, err = benchmark(capsys, *asked, "--limit", 3, "--runs", tmp_path / "runs", "--json")
    assert code == 0, err
    assert "notices" in json.loads(out)["title"]
    results = json.loads(out)["notices"]["results"]
    assert [(each["asked"], each["failed"]) for each in results] == [(3, 0), (3, 0)]
    assert all((each["judged_run"] is not None) for each in results)


def test_a_table_has_the_figures_of_ones_own_judge_and_metrics(mine, tmp_path):
    """The systems answer offline; their answers are taken for those of a live LM, so that figures are shown."""
    metrics = [mine("counts:named"), mine("counts:spread"), mine("counts:lowest")]
    own = compare.definition(mine("notices:notices"), mine("tones:brevity"), metrics, ["vanilla", "spri"])
    table = tables.build(own, grid.Ask(data=mine("rows.jsonl"), limit=12, runs=tmp_path / "runs"))
    for entry in table.entries:
        records = list(entry.cell.records())
        texts = {r.id: r.outputs["response"] for r in records}
        brief = [max(1, 5 - len(text.split()) // 30) for text in texts.values()]
        named = [r.inputs["matter"].split()[-1].strip(".") in texts[r.id] for r in records]
        lengths = [*map(len, texts.values())]
        figures = {name: estimate.value for name, estimate in entry.estimates.items()}
        assert figures["score"] == pytest.approx(sum(brief) / 12)
        assert figures["named"] == pytest.approx(sum(named) / 12)
        assert figures["spread"] == pytest.approx((max(lengths) - min(lengths)) / max(lengths))
        assert figures["least"] == min(brief)
    assert {test.baseline for tests in table.entries[1].tests.values() for test in tests} == {"vanilla"}


def test_a_table_without_anything_to_compare_by_is_refused(mine, capsys):
    code, _, err = benchmark(capsys, "compare", mine("notices:notices"))
    assert code == 2 and "name a --judge, a --metric, or both" in err
    code, _, err = benchmark(capsys, "compare", "sft", "--metric", mine("counts:lowest"))
    assert code == 2 and "lowest needs a judge" in err and "by --judge" in err
    code, _, err = benchmark(capsys, "compare", "reappraisal", "--judge", "reappraisal", "--metric", "score")
    assert code == 2 and "a judge of one criterion; reappraisal gives alignment, empathy" in err


# Judges


@pytest.mark.parametrize(
    ("judge", "criterion"),
    [("tones:brevity", "score"), ("tones:Tone", "warmth"), ("bare:Bare", "warmth")],
    ids=["function", "Judge", "dspy.Module"],
)
def test_a_judge_judges_a_run_and_a_prediction(mine, judge, criterion):
    ran(mine)
    code, _, err = command("judge", "r", "--judge", mine(judge), "--json")
    assert code == 0, err
    (folder,) = (RunDir.read("r").path / "judged").iterdir()
    scores = [record.outputs["scores"][criterion] for record in RunDir.read(folder).records()]
    assert len(scores) == 3 and all(1 <= score <= 5 for score in scores)


def test_a_judge_judges_a_prediction_in_python(mine):
    said = {"instruction": "a notice", "answer": "Found: one glove."}
    assert spri.load_judge(mine("tones:brevity")).set_lms("offline")(answer="a b", n_words=1).scores == {
        "score": 3
    }
    judge = spri.load_judge(mine("tones:Tone"), samples="2").set_lms("offline")
    assert judge.samples == 2 and 1 <= judge(**said).scores["warmth"] <= 5
    with pytest.raises(spri.UnknownNameError, match=r"setting of the judge .* 'swap'; known: samples"):
        spri.load_judge(mine("tones:Tone"), swap=True)


def test_judges_of_ones_own_make_a_panel(mine):
    ran(mine)
    code, _, err = command("judge", "r", "--judge", "generic", "--judge", mine("tones:Tone"), "--json")
    assert code == 0, err


# Metrics and an optimizer


def recipe(mine, tmp_path, metric, optimizer='name = "bootstrap_few_shot"', **program):
    """A recipe with everything of one's own, in a folder of its own."""
    system = f"[program]\nsystem = {json.dumps(program['system'])}\n" if program else ""
    text = (
        f"task = {json.dumps(mine('notices:notices'))}\n{system}"
        f"[data]\nfile = {json.dumps(mine('rows.jsonl'))}\n[metric]\n{metric}\n[optimizer]\n{optimizer}\n"
        f"[output]\nrun = {json.dumps(str(tmp_path / 'tuned'))}\nplot = false\n"
    )
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("metric", "judge"),
    [
        ("counts:named", None),
        ("counts:spread", None),
        ("pearson", "tones:Tone"),
        ("pearson", "tones:brevity"),
        ("counts:lowest", "bare:Bare"),
    ],
)
def test_a_metric_and_a_judge_tune(mine, tmp_path, metric, judge):
    metric = mine(metric) if ":" in metric else metric
    lines = [f"name = {json.dumps(metric)}", *([f"judge = {json.dumps(mine(judge))}"] if judge else [])]
    code, out, err = command("tune", recipe(mine, tmp_path, "\n".join(lines)))
    assert code == 0, err
    assert "programs scored" in out


@pytest.mark.parametrize(
    ("optimizer", "system", "stage"),
    [("seeds_off", "spri", "principles.generate"), ("drafts_off", "drafts:Twice", "final")],
)
def test_an_optimizer_tunes_by_recipe(mine, tmp_path, optimizer, system, stage):
    name = f"name = {json.dumps(mine(f'{optimizer}:drop_seeds'))}"
    metric = f"name = {json.dumps(mine('counts:lowest'))}\njudge = {json.dumps(mine('tones:brevity'))}"
    system = mine(system) if ":" in system else system
    path = recipe(mine, tmp_path, metric, f"{name}\noptions = {{most = 3}}", system=system)
    code, out, err = command("tune", path, "--json")
    assert code == 0, err
    assert json.loads(out)["decision"]["reason"]
    tried = [json.loads(line) for line in (tmp_path / "tuned" / "trials.jsonl").read_text().splitlines()]
    assert len(tried) >= 2
    path.write_text(path.read_text("utf-8").replace("most", "least"), "utf-8")
    assert_refused(command("tune", path), 2, "unknown option of drop_seeds 'least'; known: most")


def test_everything_tunes_in_python(mine, tmp_path):
    task = spri.load_task(mine("notices:notices"))
    judge = spri.load_judge(mine("tones:Tone")).set_lms("offline")
    tuned = spri.tune(
        spri.load_system(mine("drafts:Twice"), task).set_lms(base="offline"),
        trainset=list(task.examples(mine("rows.jsonl"))),
        metric=spri.load_metric(mine("counts:lowest"), judge=judge),
        optimizer=mine("drafts_off:drop_seeds"),
        run_dir=tmp_path / "tuned",
    )
    assert tuned.report.optimizer == "drop_seeds" and len(tuned.report.trials) >= 2


@pytest.mark.parametrize("name", ["named", "spread", "lowest"])
def test_a_metric_rates_and_estimates_in_python(mine, name):
    judged = {"judge": spri.load_judge(mine("tones:brevity"))} if name == "lowest" else {}
    metric = spri.load_metric(mine(f"counts:{name}"), **judged)
    task = spri.load_task(mine("notices:notices"))
    examples = list(task.examples(mine("rows.jsonl")))[:4]
    program = spri.SPRI(task).set_lms(base="offline")
    predictions = [program(**example.inputs()) for example in examples]
    assert metric.estimate(examples, predictions).n == 4
    result = dspy.Evaluate(devset=examples, metric=metric, num_threads=2)(program)
    assert len(result.results) == 4 and metric.unreadable == []


# Installed parts, and names that nothing answers to


INSTALLED = {
    "spri_dspy.metrics": ("named_metric", "counts:named"),
    "spri_dspy.optimizers": ("drop_seeds", "seeds_off:drop_seeds"),
    "spri_dspy.judges": ("tone", "tones:Tone"),
    "spri_dspy.systems": ("twice", "drafts:Twice"),
    "spri_dspy.tasks": ("notices", "notices:notices"),
}


@pytest.fixture
def installed(mine, tmp_path):
    """The folder as an installed distribution, as pip leaves one: modules and a dist-info with entry points."""
    folder = tmp_path / "my parts"
    about = folder / "my_parts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n", "utf-8")
    points = "".join(f"[{group}]\n{name} = {where}\n" for group, (name, where) in INSTALLED.items())
    (about / "entry_points.txt").write_text(points, "utf-8")
    yield folder
    for name in FILES:
        sys.modules.pop(name, None)


def test_installed_parts_go_by_their_names(mine, installed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    assert spri.load_metric("named_metric").name == "named"
    assert load_optimizer("drop_seeds", {"most": 1}).name == "drop_seeds"
    data = ("--data", mine("rows.jsonl"), "--limit", 2, "--run", "r")
    code, _, err = command("run", "notices", "--system", "twice", *data)
    assert code == 0, err
    code, _, err = command("judge", "r", "--judge", "tone")
    assert code == 0, err
    metric, optimizer = 'name = "named_metric"', 'name = "drop_seeds"\noptions = {most = 1}'
    code, _, err = command("tune", recipe(mine, tmp_path, metric, optimizer))
    assert code == 0, err


def test_installed_parts_are_on_the_menu_of_a_fresh_process(mine, installed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *filter(None, sys.path)]))
    done = process("run", "no_task")
    assert done.returncode == 2
    assert b"unknown task 'no_task'; known: notices, reappraisal, rubrics, sft" in done.stderr


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (spri.load_task, r"unknown task 'nothing'; known: .*reappraisal, rubrics, sft"),
        (
            lambda name: spri.load_system(name, spri.load_task("sft")),
            r"unknown system 'nothing'; known: .*vanilla",
        ),
        (spri.load_judge, r"unknown judge 'nothing'; known: generic, reappraisal, rubric"),
        (
            spri.load_metric,
            r"unknown metric 'nothing'; known: alignment, empathy, mix, pair_accuracy, pearson, score",
        ),
        (load_optimizer, r"unknown optimizer 'nothing'; known: .*seed_search, simba"),
    ],
    ids=["task", "system", "judge", "metric", "optimizer"],
)
def test_a_name_that_nothing_answers_to_gets_the_menu(load, said):
    with pytest.raises(spri.UnknownNameError, match=said + r".*path/to/file.py:NAME") as caught:
        load("nothing")
    assert "\n" not in str(caught.value)
