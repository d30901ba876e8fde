"""`spri judge` as a user meets it: judged runs beside the run, estimates on stdout, one line for what is wrong."""

import json
import logging
import sys
from dataclasses import replace

import pytest

from spri_dspy import cli
from spri_dspy.records import Record
from spri_dspy.runs import RunDir, fingerprint
from tests.data import data_file, rows
from tests.judge_parts import REAPPRAISAL, answer_record, make_run, reappraised, rubric
from tests.servers.openai_mock import MockConfig

POST = REAPPRAISAL["post"]


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("spri_dspy")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def spri(monkeypatch, capsys):
    """A function that runs one command: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["spri", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


@pytest.fixture
def real_judge(start_mock):
    """A function that starts a model server and gives the LM string of its judge."""
    return lambda: f"hosted_vllm/m?api_base={start_mock().base_url}"


def judged(path="r"):
    """The one judged run beside a run."""
    (found,) = (RunDir.read(folder) for folder in sorted((RunDir.read(path).path / "judged").iterdir()))
    return found


def refused(found, *said):
    code, out, err = found
    assert code == 2 and out == "", err
    assert err.count("\n") == 1
    for words in said:
        assert words in err, err


def test_run_is_judged_and_told_by_criterion_and_group(spri, real_judge):
    make_run(reappraised("a"), reappraised("b", "g2"), Record("c", {"post": POST}, error="CallError: no"))
    code, out, err = spri("judge", "r", "--lm", f"judge={real_judge()}")
    assert code == 0, err
    table = [line.split() for line in out.splitlines()]
    assert table[0] == ["criterion", "group", "value", "95", "%", "interval", "scored"]
    named = [line for line in table if line[0] in ("alignment", "empathy", "harmful", "factuality")]
    assert [line[:2] for line in named[:4]] == [
        [n, "all"] for n in ("alignment", "empathy", "harmful", "factuality")
    ]
    assert all(line[-3:] == ["2", "of", "2"] for line in named[:2])
    assert [line[0] for line in table[2:4]] == ["g1", "g2"]
    assert out.endswith("no human scores to compare with: alignment, empathy, harmful, factuality\n")
    assert "failed in the run, so not judged: 1" in err
    assert "no --judge was named, so it is reappraisal: the data has standards" in err
    records = {r.id: r for r in judged().records()}
    assert set(records) == {"a", "b"}
    assert records["a"].outputs["judge"] == {"name": "reappraisal", "version": "reappraisal/2"}
    assert records["a"].inputs["standards"] == "- Names one step."


def test_judged_run_is_named_after_what_decides_it(spri):
    make_run(reappraised(), program="0123", data={"file": "4567"})
    spri("judge", "r", "--set", "samples=2")
    manifest = judged().manifest
    assert (manifest["judge"], manifest["judge_version"]) == ("reappraisal", "reappraisal/2")
    assert manifest["parent"]["program"] == "0123" and manifest["data"] == {"file": "4567"}
    assert manifest["settings"] == {"samples": 2, "logprobs": 0, "swap": False}
    kinds = {"alignment": "scale", "empathy": "scale", "harmful": "share", "factuality": "choice"}
    assert manifest["criteria"] == kinds
    left_out = ("schema", "created", "lms", "versions")
    identity = {k: v for k, v in manifest.items() if k not in left_out}
    assert judged().path.name == f"reappraisal-{fingerprint(identity)[:8]}"


def test_same_command_resumes_and_another_setting_is_another_judged_run(spri):
    make_run(reappraised("a"))
    spri("judge", "r")
    with RunDir.create("r", RunDir.read("r").manifest) as run:
        run.append(reappraised("b"))
    code, out, err = spri("judge", "r")
    assert code == 0 and "1 example done; 1 finished before" in err and "2 of 2" in out
    code, _, err = spri("judge", "r", "--fresh")
    assert code == 0 and "2 examples done\n" in err
    spri("judge", "r", "--set", "swap=true")
    assert len(list((RunDir.read("r").path / "judged").iterdir())) == 2


def test_answers_of_a_run_made_anew_are_judged_anew(spri):
    make_run(reappraised("a"), created="2026-01-01T00:00:00+00:00")
    spri("judge", "r")
    with RunDir.create(
        "r", {**RunDir.read("r").manifest, "created": "2026-02-01T00:00:00+00:00"}, fresh=True
    ) as run:
        run.append(reappraised("a"))
    _, _, err = spri("judge", "r")
    assert "1 example done\n" in err


def test_json_is_one_object_with_estimates(spri, start_mock):
    scores = (5, 1, 3, 4)
    make_run(
        *(answer_record(name, score) for name, score in zip("abcd", scores, strict=True)), task="rubrics"
    )
    replies = iter((1, 3, 5, 2))
    mock = start_mock(reply=lambda messages, body: f"Feedback: so [RESULT] {next(replies)}")
    lm = f"judge=hosted_vllm/m?api_base={mock.base_url}&format=result_tag"
    code, out, _ = spri("judge", "r", "--judge", "generic", "--json", "--lm", lm)
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (told["judge"], told["judge_version"], told["judged_run"]) == ("generic", "generic/2", "r")
    (finding,) = told["findings"]
    assert finding["criterion"] == "score"
    assert finding["overall"]["n"] == 4 and finding["overall"]["coverage"] == 1.0
    assert finding["agreement"][0]["name"] == "pearson" and finding["agreement"][0]["reason"] != "no labels"


def test_agreement_with_people_is_told(spri, start_mock):
    given = {"Lima, a.": 1, "Lima, b.": 5, "Lima, c.": 2, "Lima, d.": 4}

    def reply(messages, body):
        return next(f"Feedback: so [RESULT] {n}" for text, n in given.items() if text in str(messages))

    mock = start_mock(reply=reply)
    make_run(
        answer_record("a", 1),
        answer_record("b", 5),
        answer_record("c", 2),
        answer_record("d"),
        task="rubrics",
    )
    lm = f"judge=hosted_vllm/m?api_base={mock.base_url}&format=result_tag"
    code, out, err = spri("judge", "r", "--judge", "generic", "--lm", lm)
    assert code == 0, err
    assert ["score", "all", "1.00"] in [line.split()[:3] for line in out.splitlines()] and "3 of 4" in out


def test_dry_run_says_what_it_takes_and_writes_nothing(spri):
    make_run(*(reappraised(name) for name in "abc"))
    code, out, _ = spri("judge", "r", "--dry-run", "--limit", 2, "--set", "samples=5", "--set", "swap=true")
    assert code == 0
    assert "2 examples of r, judge reappraisal/2" in out and "LM calls: 80 to 240" in out
    assert "nothing was run" in out and not (RunDir.read("r").path / "judged").exists()
    _, out, _ = spri("judge", "r", "--dry-run", "--json")
    assert json.loads(out)["calls"] == {"fewest": 12, "most": 36}
    assert json.loads(out)["usd_typical"] == 0.0


def test_limit_judges_the_first_that_finished(spri):
    make_run(*(reappraised(name) for name in "abc"))
    spri("judge", "r", "--limit", 2)
    assert {r.id for r in judged().records()} == {"a", "b"}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("label", "Is the data's city right?"),
        ("run", "Is the run's city right?"),
        ("own.txt", "Is it short?"),
    ],
)
def test_rubric_comes_from_where_it_is_said_to(spri, tmp_path, source, shown):
    (tmp_path / "own.txt").write_text("Is it short?")
    make_run(answer_record(), task="rubrics")
    code, _, err = spri("judge", "r", "--judge", "rubric", "--set", f"rubric={source}")
    assert code == 0, err
    (record,) = judged().records()
    assert record.inputs["rubric"].startswith(shown) and "reference_answer" not in record.inputs


def test_exported_rubrics_are_used_by_instance(spri):
    make_run(answer_record(), task="rubrics", program="0123")
    assert spri("export", "r", "--format", "rubrics", "--out", "rubrics.jsonl")[0] == 0
    code, _, err = spri("judge", "r", "--judge", "rubric", "--set", "rubric=rubrics.jsonl")
    assert code == 0, err
    (record,) = judged().records()
    assert record.inputs["rubric"].startswith("Is the run's city right?")


def test_reference_answer_is_shown_on_request(spri):
    make_run(answer_record(), task="rubrics")
    settings = ("--set", "rubric=label", "--set", "reference=true")
    assert spri("judge", "r", "--judge", "rubric", *settings)[0] == 0
    (record,) = judged().records()
    assert record.inputs["reference_answer"] == "It is Lima."


def test_panel_of_judges_and_rubrics_is_one_judged_run(spri):
    make_run(answer_record("a"), answer_record("b"), task="rubrics")
    asked = (
        "--judge",
        "rubric",
        "--judge",
        "generic",
        "--set",
        "rubric=label,run",
        "--set",
        "combine=median",
    )
    code, out, err = spri("judge", "r", *asked)
    assert code == 0, err
    assert judged().manifest["judge_version"] == "panel/1 median of rubric/2 + generic/2"
    (first, _) = judged().records()
    members = first.outputs["details"]["score"]["members"]
    assert [m["judge"] for m in members] == ["rubric/2", "generic/2"] and len(members[0]["by_rubric"]) == 2
    assert first.usage["judge"].calls == 3
    assert "score" in out.split()


def test_several_lms_are_a_panel(spri):
    make_run(reappraised())
    code, _, err = spri("judge", "r", "--lm", "judge=offline", "--lm", "judge=offline?temperature=0.1")
    assert code == 0, err
    manifest = judged().manifest
    assert manifest["models"] == {"judge": "offline", "judge2": "offline?temperature=0.1"}
    (record,) = judged().records()
    assert record.usage["judge"].calls == 8


def test_response_of_the_system_is_judged_where_the_data_has_no_answer(spri):
    make_run(
        Record("a", {"instruction": "Name the capital."}, {"response": "Lima.", "principles": "Be short."}),
        task="sft",
    )
    assert spri("judge", "r")[0] == 0
    assert next(judged().records()).inputs == {"instruction": "Name the capital.", "answer": "Lima."}


def test_post_and_aim_are_the_instruction_of_a_generic_judge(spri):
    make_run(reappraised())
    code, _, err = spri("judge", "r", "--judge", "generic")
    assert code == 0 and "no --judge" not in err
    assert next(judged().records()).inputs["instruction"] == f"post:\n{POST}\n\naim:\nFind a next step."


# Whom the user names, and nobody else, is asked


@pytest.mark.parametrize("arguments", [(), ("--dry-run",), ("--fresh",), ("--json",), ("--judge", "generic")])
@pytest.mark.parametrize("base", ["offline", "hosted_vllm/their-model"])
def test_judge_that_a_run_directory_names_gets_no_request_and_no_key(
    spri, start_mock, monkeypatch, tmp_path, arguments, base
):
    """A run directory may come from somebody else: its manifest must not decide where a key goes."""
    monkeypatch.setenv("SOME_TOKEN", "precious-0123456789")
    mock = start_mock()
    theirs = f"hosted_vllm/m?api_base={mock.base_url}&key_env=SOME_TOKEN"
    lms = {"base": base, "critic": theirs, "judge": theirs}
    run = make_run(reappraised(), reappraised("b"), lms=lms, models=lms)
    code, _, err = spri("judge", run, *arguments)
    assert mock.stats.received == 0
    assert code == (0 if base == "offline" else 2), err
    if "--dry-run" not in arguments:
        assert f"this run names judge={theirs}: pass --lm judge=... to use it" in err
    for path in tmp_path.rglob("*.json*"):
        assert "precious" not in path.read_text()


@pytest.mark.parametrize("command", [("show", "r"), ("export", "r", "--format", "sft"), ("run",)])
def test_lms_of_a_manifest_get_no_request_from_other_commands(spri, start_mock, monkeypatch, command):
    monkeypatch.setenv("SOME_TOKEN", "precious-0123456789")
    mock = start_mock()
    assert spri("run", "sft", "--limit", 2, "--run", "r")[0] == 0
    path = RunDir.read("r").path / "manifest.json"
    theirs = f"hosted_vllm/m?api_base={mock.base_url}&key_env=SOME_TOKEN"
    manifest = json.loads(path.read_text()) | {"lms": {"base": theirs, "critic": theirs, "judge": theirs}}
    path.write_text(json.dumps(manifest))
    resume = ("run", "sft", "--limit", 3, "--run", "r")
    assert spri(*(resume if command == ("run",) else command))[0] == 0
    assert mock.stats.received == 0


@pytest.mark.parametrize("manifest", [{}, {"lms": None, "models": {"base": "openai/gpt-4o"}}])
@pytest.mark.parametrize("lm", [(), ("--lm", "judge=offline")])
def test_offline_judge_of_a_real_run_is_refused_in_one_line(spri, manifest, lm):
    make_run(reappraised(), lms={"base": "openai/gpt-4o", **manifest} if manifest == {} else manifest["lms"])
    path = RunDir.read("r").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    refused(spri("judge", "r", *lm), "scores say nothing about openai/gpt-4o: pass --lm judge=PROVIDER/MODEL")
    assert not (RunDir.read("r").path / "judged").exists()


def test_dry_run_needs_no_key(spri):
    make_run(reappraised(), lms={"base": "openai/gpt-4o"})
    code, out, _ = spri("judge", "r", "--lm", "judge=openai/gpt-4o-mini", "--dry-run")
    assert code == 0 and "judge: openai/gpt-4o-mini" in out
    code, _, err = spri("judge", "r", "--lm", "judge=openai/gpt-4o-mini")
    assert code == 3 and "set OPENAI_API_KEY" in err
    assert not (RunDir.read("r").path / "judged").exists()


# Runs that have judgements of their own


@pytest.fixture
def rubrics_run(tmp_path):
    """A real LM's run of the rubrics task over two capabilities."""
    given = [(1, 2), (3, 3), (5, 4), (4, 5)]
    records = [
        replace(
            answer_record(f"{group}{n}", human), outputs=judgement(score), group=group, cluster=f"{group}{n}"
        )
        for group in ("grounding", "planning")
        for n, (score, human) in enumerate(given)
    ]
    return make_run(*records, task="rubrics", lms={"base": "openai/gpt-4o"})


def judgement(score):
    return {"principles": rubric("the run's"), "response": {"feedback": "so", "score": score}}


def test_own_figures_of_a_rubrics_run_are_told_without_a_call(spri, rubrics_run):
    code, out, err = spri("judge", "r")
    assert code == 0, err
    table = [line.split() for line in out.splitlines()]
    assert ["score", "all", "3.25"] in [line[:3] for line in table]
    rows = table[
        table.index(["pearson", "with", "human", "scores", "group", "r", "95", "%", "interval", "scored"]) :
    ]
    assert [row[0] for row in rows[2:]] == ["planning", "all", "mean"] and rows[1][:2] == [
        "score",
        "grounding",
    ]
    assert all(row[-3:] in (["4", "of", "4"], ["8", "of", "8"]) for row in rows[1:])
    assert "the run's own judgements; no call was made" in err
    assert "next: spri judge r --lm judge=PROVIDER/MODEL" in err
    told = json.loads(spri("judge", "r", "--json")[1])
    assert list(told["findings"][0]["agreement_by_group"]) == ["grounding", "planning"]
    assert not (RunDir.read("r").path / "judged").exists()


def test_rubrics_run_is_judged_anew_with_its_own_rubrics(spri, rubrics_run, real_judge):
    code, _, err = spri("judge", "r", "--lm", f"judge={real_judge()}", "--limit", 2)
    assert code == 0, err
    assert judged().manifest["judge"] == "rubric" and judged().manifest["settings"]["rubric"] == "run"
    assert all(r.inputs["rubric"].startswith("Is the run's city right?") for r in judged().records())


def test_end_of_a_rubrics_run_tells_its_own_figures(spri, real_judge):
    code, out, err = spri("run", "rubrics", "--run", "r", "--lm", f"base={real_judge()}&format=json")
    assert code == 0, err
    assert "pearson with human scores" in out and "mean of groups" in out
    code, out, _ = spri("run", "rubrics", "--run", "off", "--limit", 3)
    assert code == 0 and "3 done, 0 failed" in out
    assert "pearson" not in out and "interval" not in out
    code, out, _ = spri("judge", "off")
    assert code == 0 and "pearson" not in out and "interval" not in out and "3 of 3" in out


def test_instances_without_an_answer_are_passed_over_and_said(spri):
    written = Record("b", {"instruction": "x"}, {"principles": rubric("a")})
    make_run(answer_record(), written, task="rubrics")
    code, out, err = spri("judge", "r", "--judge", "generic")
    assert code == 0 and "1 of 1" in out
    assert "without an answer, so not judged: 1" in err


def test_failed_judgement_is_counted_and_ends_with_one(spri, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from spri_dspy.errors import CallError\n"
        "from spri_dspy.judges.generic import GenericJudge\n"
        "class Broken(GenericJudge):\n"
        "    name = 'broken'\n"
        "    async def aforward(self, group=None, **inputs):\n"
        "        if 'b.' in inputs['answer']:\n"
        "            raise CallError('no answer')\n"
        "        return await super().aforward(group, **inputs)\n"
    )
    make_run(answer_record("b"), path="all", task="rubrics")
    code, out, _ = spri("judge", "all", "--judge", "broken.py:Broken")
    assert code == 1 and "0 of 1" in out
    make_run(answer_record("a"), answer_record("b"), task="rubrics")
    code, out, err = spri("judge", "r", "--judge", "broken.py:Broken")
    assert code == 1 and "1 failed; the same command with --retry-errors" in err
    assert "failed: 1 CallError" in err
    assert "1 of 2" in out
    code, _, err = spri("judge", "r", "--judge", "broken.py:Broken", "--retry-errors")
    assert code == 1 and "0 examples done, 1 failed; 1 finished before" in err


# Judges of the user's own


FUNCTIONS = """
import asyncio

def length(answer, *, rubric="none"):
    return len(answer)

async def several(instruction, answer):
    await asyncio.sleep(0)
    return {"short": True, "odd": None}

def words(answer):
    return "a good answer"

def fails(answer):
    return {}[answer]

def anything(**inputs):
    return 3

def made_wrongly(samples=1):
    return 1 / 0

number = 5
"""


def test_function_that_scores_is_a_judge_and_asks_no_lm(spri, tmp_path):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    make_run(answer_record("a", 1), answer_record("bcd", 4), lms={"base": "openai/gpt-4o"})
    code, out, err = spri("judge", "r", "--judge", "own.py:length")
    assert code == 0, err
    assert "9.00" in out and "2 of 2" in out and "0 LM calls" in err
    assert {r.id: r.outputs["scores"] for r in judged().records()} == {
        "a": {"score": 8.0},
        "bcd": {"score": 10.0},
    }
    assert judged().manifest["lms"] == {} and judged().manifest["judge"] == "length"


def test_function_may_give_several_numbers_and_be_asynchronous(spri, tmp_path):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    make_run(answer_record("a"), task="rubrics")
    code, out, err = spri("judge", "r", "--judge", "own.py:several")
    assert code == 0, err
    assert next(judged().records()).outputs["scores"] == {"short": 1.0, "odd": None}
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["short", "odd"] and "0 of 1" in out


def test_function_that_fails_is_a_failed_example_with_the_line_of_its_author(spri, tmp_path):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    make_run(answer_record("a"))
    code, _, _ = spri("judge", "r", "--judge", "own.py:fails")
    (record,) = judged().records()
    assert code == 1 and "own.py, line 15, 'return {}[answer]': KeyError: 'Lima, a.'" in record.error


def test_function_that_returns_words_is_told_what_to_return(spri, tmp_path):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    make_run(answer_record("a"))
    code, _, _ = spri("judge", "r", "--judge", "own.py:words")
    (record,) = judged().records()
    assert (
        code == 1
        and record.error == "CallError: the judge words must return numbers or None, not 'a good answer'"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "must return a Judge, not int; a function that scores names what it is shown: def judge("),
        (
            "anything",
            "must return a Judge, not int; a function that scores names what it is shown: def judge(",
        ),
        ("made_wrongly", "own.py, line 21, 'return 1 / 0': ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_judge_is_refused_in_one_line(spri, tmp_path, name, said):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    make_run(answer_record("a"))
    refused(spri("judge", "r", "--judge", f"own.py:{name}"), said)


def test_unknown_model_stops_at_once(spri, start_mock):
    mock = start_mock(MockConfig(models=["other"]))
    make_run(*(reappraised(name) for name in "abc"))
    code, out, err = spri("judge", "r", "--lm", f"judge=hosted_vllm/m?api_base={mock.base_url}")
    assert code == 3 and out == "" and "every example would fail" in err
    assert not list(judged().records())


def test_spent_budget_keeps_what_is_finished(spri, start_mock):
    mock = start_mock()
    make_run(*(reappraised(name) for name in "abc"))
    lm = f"judge=hosted_vllm/m?api_base={mock.base_url}"
    asked = ("judge", "r", "--judge", "generic", "--set", "samples=4", "--lm", lm, "--concurrency", 1)
    code, _, err = spri(*asked, "--max-calls", 5)
    assert code == 4 and "the budget of 5 LM calls is spent" in err
    code, _, err = spri(*asked)
    assert code == 0, err
    assert mock.stats.n_answered == 12


def test_leaky_run_is_refused_and_marked_if_allowed(spri):
    make_run(reappraised(), leaks=["'seed 1' of 'seeds' and 'a' of 'evaluation' (exact, 1.00)"])
    refused(spri("judge", "r"), "evaluation inputs are among its seeds", "--allow-leak")
    code, _, err = spri("judge", "r", "--allow-leak")
    assert code == 0 and "marked: evaluation inputs were among the run's seeds" in err
    assert judged().manifest["leaks"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere is no run directory: it has no manifest.json"),
        (("empty",), "empty has no answer to judge: none finished"),
        (("failed",), "failed has no answer to judge: 1 failed"),
        (("r", "--judge", "oracle"), "unknown judge 'oracle'; known: generic, reappraisal, rubric"),
        (
            ("r", "--judge", "rubric"),
            "the judge rubric needs a rubric: --set rubric=run (the run's own), label",
        ),
        (("r", "--judge", "rubric", "--set", "rubric=gone.txt"), "no such rubric: 'gone.txt'"),
        (("r", "--set", "rubric=label"), "the judge reappraisal takes no rubric; --judge rubric does"),
        (("r", "--set", "reference=true"), "takes no reference answer"),
        (("r", "--set", "reference=maybe"), "reference must be true or false, not 'maybe'"),
        (
            ("r", "--judge", "rubric", "--set", "rubric=label", "--set", "reference=true"),
            "has no reference_answer",
        ),
        (("r", "--set", "sample=5"), "unknown setting of the judge reappraisal 'sample'"),
        (("r", "--set", "samples=0"), "samples must be at least 1"),
        (("r", "--lm", "base=offline"), "spri judge asks the role judge only, not 'base'"),
        (("r", "--lm", "judge=offline", "--lm", "judge=offline"), "one is named twice"),
        (("r", "--judge", "generic", "--judge", "generic"), "one is named twice"),
        (("r", "--limit", "0"), "--limit must be at least 1"),
        (("r", "--concurrency", "0"), "--concurrency must be at least 1"),
        (
            ("bare", "--judge", "reappraisal"),
            "example 'a' has no standards, which the judge reappraisal is shown",
        ),
        (("bare", "--judge", "rubric", "--set", "rubric=label"), "example 'a' has no rubric from 'label'"),
    ],
)
def test_wrong_input_is_one_line(spri, arguments, said):
    make_run(reappraised())
    make_run(path="empty")
    make_run(Record("a", {"post": POST}, error="CallError: no"), path="failed")
    make_run(Record("a", {"post": POST}, {"response": "Write."}), path="bare")
    refused(spri("judge", *arguments), said)


def test_judged_run_is_not_judged_again(spri):
    make_run(reappraised())
    spri("judge", "r")
    refused(spri("judge", judged().path), "is a judged run itself")


def test_judged_run_can_be_shown(spri):
    make_run(reappraised())
    spri("judge", "r")
    code, out, _ = spri("show", judged().path)
    assert code == 0 and "alignment" in out and "standards" in out


def test_built_in_examples_go_from_run_to_estimates(spri):
    assert spri("run", "reappraisal", "--limit", 2, "--run", "r")[0] == 0
    code, out, err = spri("judge", "r", "--set", "swap=true")
    assert code == 0, err
    assert "order gap" not in out and "interval" not in out and "2 of 2" in out, "offline makes no figures"
    assert all("gap" in r.outputs["details"]["alignment"] for r in judged().records())


@pytest.mark.parametrize(
    ("task", "file", "asked"),
    [
        ("reappraisal", "reappraisal/eval_30.jsonl", ()),
        ("rubrics", "rubrics/prometheus_vicuna.jsonl", ("rubric=label", "swap=true", "reference=true")),
        ("sft", "sft/user_instructions_252.jsonl", ("samples=2",)),
    ],
)
def test_real_rows_go_from_run_to_estimates(spri, tmp_path, task, file, asked):
    given = rows(data_file(file))[:3]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    assert spri("run", task, "--data", "rows.jsonl", "--run", "r")[0] == 0
    settings = [word for setting in asked for word in ("--set", setting)]
    judge = ("--judge", "rubric") if task == "rubrics" else ()
    code, out, err = spri("judge", "r", *judge, *settings)
    assert code == 0, err
    assert "3 of 3" in out
    assert all(
        ("gap" in r.outputs["details"]["score"]) == ("swap=true" in asked)
        for r in judged().records()
        if task != "reappraisal"
    )
