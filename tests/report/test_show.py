"""spri ls and spri show, as a stranger reads them: what failed and why, every call, what a tuning changed."""

import json
import re
import shutil
from pathlib import Path

import dspy
import pytest

from spri_dspy.bulk import run_bulk
from spri_dspy.runs import CALLS, RunDir
from tests.command import assert_refused, spri, write
from tests.commands.test_tune import POSTS as LINES
from tests.factories import chat
from tests.servers.fixtures import mock_thread
from tests.terminal import in_terminal, on_screen
from tests.test_evidence import EXAMPLE, answering

RAW = "[[ ## response ## ]]\n\n[[ ## completed ## ]]"
"""An answer without the text that was asked for."""

POSTS = [
    {"id": "fine", "post": "My sister has not written since March.", "dimension": "self-responsibility"},
    {"id": "odd one", "post": "I dream of the lighthouse.", "dimension": "problem-focused_coping"},
]
WIDTHS = (80, 120)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "posts.jsonl", *POSTS)


def nonsense_about_the_lighthouse(messages, body):
    """Answers everything but one post."""
    asked = messages[-1]["content"].rpartition("Respond")[2]
    is_odd = "[[ ## response ## ]]" in asked and "lighthouse" in messages[-1]["content"]
    return RAW if is_odd else answering()(messages, body)


@pytest.fixture
def failed(start_mock):
    """A run in `my run` one of whose two examples failed; what the command said."""
    mock = start_mock(reply=nonsense_about_the_lighthouse)
    lm = f"base=hosted_vllm/mine?api_base={mock.base_url}"
    found = spri("run", "reappraisal", "--data", "posts.jsonl", "--run", "my run", "--keep-calls", "--lm", lm)
    assert found[0] == 1, found[2]
    return found


def words(text):
    """A text without frames and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def assert_fits(written, columns):
    """Nothing was cut off, and no line is so wide that the terminal breaks it."""
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)
    assert max(map(len, plain.replace("\r", "").split("\n"))) <= columns
    assert "…" not in plain


# A failed example


def test_run_tells_of_the_failure_and_what_to_do(failed):
    _, out, err = failed
    assert "odd one  " in out and "UnreadableAnswer: generate_response" in out and "1 done, 1 failed" in out
    assert "spri: failed: 1 UnreadableAnswer\n" in err
    assert "spri: next: spri show 'my run' 'odd one'\n" in err


@pytest.mark.parametrize("columns", WIDTHS)
def test_failed_example_is_shown_with_all_its_evidence(failed, columns):
    code, written = in_terminal("show", "my run", "odd one", columns=columns)
    assert code == 0
    assert_fits(written, columns)
    shown = words("\n".join(on_screen(written, columns)))
    parts = (
        "odd one · problem-focused_coping",
        "I dream of the lighthouse.",
        "principles: draft some principles",
        "critic: score 2 some feedback",
        "principles: refined some improved_principles",
        "principles: refined into the same text",
        "error UnreadableAnswer: generate_response: no readable answer in 3 samples",
        "failed at generate_response, sample 3",
        f"answer as it came {words(RAW)}",
        "raised from AdapterParseError: the answer has no text for the field 'response' (answers.py:",
        "base: 6 calls",
        "spri: next: spri show 'my run' 'odd one' --calls",
    )
    places = [shown.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)] + "\n" + shown
    assert places == sorted(places)


def test_failed_example_as_json_has_the_same(failed):
    record = json.loads(spri("show", "my run", "odd one", "--json")[1])
    assert record["failure"]["answer"] == RAW and record["failure"]["attempt"] == 2
    assert [line.partition(":")[0] for line in record["failure"]["chain"]] == [
        "UnreadableAnswer",
        "AdapterParseError",
    ]


def test_error_of_a_program_of_ones_own_is_shown_with_its_line():
    class Bare(dspy.Module):
        async def acall(self, question, group=None):
            raise ValueError("no colour")

    run_bulk(Bare(), [EXAMPLE], "r")
    assert "ValueError: no colour (test_show.py:" in words(spri("show", "r")[1])


# Calls


def test_calls_are_shown_with_prompt_answer_and_what_they_took(failed):
    code, out, _ = spri("show", "my run", "odd one", "--calls")
    kept = [json.loads(line) for line in (RunDir.read("my run").path / CALLS).read_text("utf-8").splitlines()]
    kept = [call for call in kept if call["example"] == "odd one"]
    assert code == 0 and out.count("hosted_vllm/mine") == len(kept) == 11
    shown = words(out)
    assert "odd one · generate_principles, sample 1 · hosted_vllm/mine" in shown
    assert "odd one · generate_response, sample 3 · hosted_vllm/mine" in shown
    assert "Write the principles that a good answer to this particular post should follow" in shown
    assert f"answer {words(RAW)} ended by stop · " in shown
    assert "fine ·" not in shown and "from the cache" in shown
    used = kept[0]["usage"]
    assert f"{used['input_tokens']} tokens in, {used['output_tokens']} out" in shown


@pytest.mark.parametrize("columns", WIDTHS)
def test_calls_fit_the_width(failed, columns, monkeypatch):
    monkeypatch.setattr("spri_dspy.screen.WIDTH", columns)
    assert_fits(spri("show", "my run", "odd one", "--calls")[1], columns)


def test_calls_of_all_examples_as_json_are_those_of_the_file(failed):
    lines = spri("show", "my run", "--calls", "--json")[1].splitlines()
    kept = (RunDir.read("my run").path / CALLS).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in kept]


def test_calls_that_were_not_kept_are_refused_in_one_line(failed):
    spri("run", "reappraisal", "--limit", "1", "--run", "r")
    assert_refused(spri("show", "r", "--calls"), 2, "r kept no calls; run it with --keep-calls")
    assert_refused(spri("show", "my run", "nobody", "--calls"), 2, "my run kept no call of 'nobody'")
    spri("run", "reappraisal", "--limit", "1", "--run", "r", "--keep-calls")
    assert_refused(spri("show", "r", "--calls"), 2, "r kept no call: what finished before --keep-calls")
    assert "--calls" not in spri("show", "r")[2]


# A run at a glance


@pytest.mark.parametrize("columns", WIDTHS)
def test_table_of_a_run_keeps_ids_and_ends_whole(columns, monkeypatch):
    monkeypatch.setattr("spri_dspy.screen.WIDTH", columns)
    long_id = "a-long-identifier-of-32-letters-"
    write(Path("long.jsonl"), *({**row, "id": long_id + row["id"]} for row in POSTS))
    code, out, _ = spri("run", "reappraisal", "--data", "long.jsonl", "--run", "r")
    lines = out.splitlines()
    assert code == 0
    head = next(line for line in lines if line.startswith("id "))
    assert ("group" in head) is (columns == 120)
    rows = [line for line in lines if line.startswith(long_id)]
    assert len(rows) == 2 and all(row.count(" accepted ") == 2 for row in rows)


# A folder of runs


def good_by_the_lighthouse(messages, body):
    """Good principles where the post, or a seed, has a lighthouse in it; what follows good ones is good."""
    asked = messages[-1]["content"].rpartition("Respond")[2]
    names = [n for n in re.findall(r"\[\[ ## (\w+) ## \]\]", asked) if n != "completed"]
    seen = str(messages) if "principles" in names else messages[-1]["content"]
    good = "lighthouse" in seen
    text = "lighthouse words" if good else "plain words"
    return chat(**{name: ("5" if good else "2") if name == "score" else text for name in names})


RECIPE = """
task = "reappraisal"
[data]
train = "train.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"
[metric]
name = "empathy"
[optimizer]
name = "bootstrap_few_shot"
stages = ["principles.generate"]
[output]
run = "runs/tuned it"
plot = false
"""


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    """A folder with a tuning whose program is better, in `runs/tuned it`; what the command said."""
    folder, posts = tmp_path_factory.mktemp("tuning"), [json.loads(line) for line in LINES]
    lights = [{**post, "post": f"At the lighthouse. {post['post']}"} for post in posts[:12]]
    for name, rows in (("train", lights), ("validation", posts[12:32]), ("test", posts[32:40])):
        write(folder / f"{name}.jsonl", *rows)
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    with pytest.MonkeyPatch.context() as patch, mock_thread(reply=good_by_the_lighthouse) as mock:
        patch.chdir(folder)
        lm = f"hosted_vllm/mine?api_base={mock.base_url}"
        code, out, err = spri("tune", "recipe.toml", "--lm", f"base={lm}", "--lm", f"judge={lm}")
    assert code == 0, err
    return folder, out, err


@pytest.fixture
def tuned(tmp_path, tuning):
    """A copy of it here; what the command said."""
    shutil.copytree(tuning[0] / "runs", tmp_path / "runs")
    return tuning[1:]


@pytest.mark.parametrize("columns", WIDTHS)
def test_tuning_is_shown_with_figures_reason_and_seeds(tuned, columns):
    code, written = in_terminal("show", "runs/tuned it", columns=columns)
    assert code == 0
    assert_fits(written.replace("...", ""), columns)
    lines = on_screen(written, columns)
    assert lines[0] == "reappraisal, bootstrap_few_shot by empathy: improved"
    assert lines[1].startswith("better on rows that the search had not seen (by 1.8, p = ")
    alike = ["no", "interval:", "no", "spread", "between", "clusters"]
    assert [line.split()[:8] for line in lines[2:6]] == [
        ["split", "examples", "program", "empathy", "interval"],
        ["holdout", "10", "start", "2.000", *alike[:4]],
        ["tuned", "3.800", *alike],
        ["difference", "+1.800", *alike[:-1], "clusters,"],
    ]
    shown = words("\n".join(lines))
    assert "clusters, p = 0.031 " in shown
    assert "test 8 start 2.000" in shown and "2 programs scored; " in shown
    assert "principles.generate: 6 seeds before, 10 after, 6 the same + [" in shown
    assert shown.count("post: At the lighthouse. ") == 4 and shown.count("principles: lighthouse words") == 4


def test_tuning_names_the_next_commands_and_they_run(tuned):
    out, err = tuned
    assert "spri: next: spri show 'runs/tuned it'\n" in err
    assert "spri: next: spri run reappraisal --program 'runs/tuned it/program.json'\n" in err
    shown = spri("show", "runs/tuned it")[1]
    assert shown.startswith(out)
    code, _, err = spri("run", "reappraisal", "--program", "runs/tuned it/program.json", "--limit", 1)
    assert code == 0, err


@pytest.mark.parametrize("columns", WIDTHS)
def test_runs_and_tunings_are_listed_newest_first(tuned, failed, columns, monkeypatch):
    RunDir.read("my run").path.rename("runs/my run")
    spri("run", "reappraisal", "--limit", 2, "--run", "runs/offline")
    spri("judge", "runs/offline")
    code, written = in_terminal("ls", columns=columns)
    assert code == 0
    assert_fits(written, columns)
    shown = " ".join(
        part for line in on_screen(written, columns) for part in re.split(r"\s+|·", line) if part
    )
    for part in (
        "tuning reappraisal bootstrap_few_shot hosted_vllm/mine improved",
        "run reappraisal spri hosted_vllm/mine 1 done, 1 failed",
        "run reappraisal spri offline 2 done",
        "judged reappraisal reappraisal offline 2 done",
        " UTC",
        "runs/tuned it ",
    ):
        assert part in shown, shown


def test_listing_as_json_has_every_fact(tuned, failed):
    rows = {row["path"]: row for row in json.loads(spri("ls", ".", "--json")[1])}
    assert set(rows) == {"runs/tuned it", "my run"}
    row = rows["my run"]
    assert (row["kind"], row["system"], row["done"], row["failed"], row["of"]) == ("run", "spri", 1, 1, 2)
    row = rows["runs/tuned it"]
    assert (row["kind"], row["system"], row["outcome"]) == ("tuning", "bootstrap_few_shot", "improved")


def test_tuning_that_was_stopped_or_damaged_is_listed_and_told_of(tuned):
    report = RunDir.read("runs/tuned it").path / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"decision": None}))
    code, out, err = spri("ls")
    assert (code, out) == (0, "") and "report.json is no report of a tuning run (it has no decision)" in err
    report.unlink()
    assert "not ended" in spri("ls")[1]
    assert_refused(spri("show", "runs/tuned it"), 2, "has not ended; start the same command again")


def test_folder_without_runs_is_said_in_one_line(tmp_path):
    assert_refused(spri("ls"), 2, "there is no folder runs; name the one that your runs lie in: spri ls DIR")
    code, out, err = spri("ls", ".")
    assert (code, out, err) == (0, "", "spri: there is no run in .; spri ls DIR looks in another folder\n")
