"""The command line as a user meets it: results alone on stdout, talk on stderr, an exit code that tells."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spri_dspy import progress
from spri_dspy.commands import run as run_command
from spri_dspy.records import Record, Round, Usage, Verdict
from spri_dspy.runs import RunDir
from tests.command import MAIN, assert_refused, files, process, spri, write
from tests.servers.openai_mock import MockConfig

POST = "My sister has not answered my letters since March."


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


# Run directories that cannot be used


def test_other_run_in_the_directory_is_refused_and_left_as_it_is(tmp_path, start_mock):
    lm = f"base=hosted_vllm/mock?api_base={start_mock().base_url}"
    assert spri("run", "reappraisal", "--limit", 1, "--run", "r", "--lm", lm)[0] == 0
    before = files(tmp_path)
    found = spri("run", "reappraisal", "--limit", 1, "--run", "r", "--lm", lm + "&temperature=0")
    assert_refused(found, 2, "r holds another run (models: ", "use another --run, or --fresh")
    after = files(tmp_path)
    assert {p.name: v for p, v in after.items() if p.suffix in (".json", ".jsonl")} == {
        p.name: v for p, v in before.items() if p.suffix in (".json", ".jsonl")
    }
    assert (
        spri("run", "reappraisal", "--limit", 1, "--run", "r", "--lm", lm + "&temperature=0", "--fresh")[0]
        == 0
    )


def test_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path):
    write(tmp_path / "thesis.tex", "ten years")
    assert_refused(spri("run", "reappraisal", "--run", "."), 2, ". holds other files and no run")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_run_directory_is_refused(tmp_path):
    write(tmp_path / "file", "precious")
    assert_refused(spri("run", "reappraisal", "--run", "file"), 2, "file is a file; name a directory")


# LMs that every example would fail on


@pytest.mark.parametrize("route", ["native", "litellm"])  # LiteLLM likes to print advice on stdout
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MockConfig(api_key="another"), "Incorrect API key provided"),
        (MockConfig(models=["another"]), "The model does not exist"),
    ],
    ids=["401", "404"],
)
def test_refusing_server_stops_the_run_with_exit_3_in_one_line(tmp_path, start_mock, config, said, route):
    lm = f"base=hosted_vllm/mock?api_base={start_mock(config).base_url}&route={route}"
    found = spri("run", "reappraisal", "--run", "r", "--lm", lm)
    assert_refused(
        found, 3, "every example would fail: ", said, "check key, model and address of hosted_vllm/mock"
    )
    assert RunDir.read(tmp_path / "r").finished() == set()


def test_failed_examples_make_exit_1_until_they_succeed(tmp_path, start_mock):
    broken, sound = start_mock(MockConfig(rates={"null_content": 1.0})), start_mock()
    command = ["run", "reappraisal", "--limit", 2, "--run", "r", "--lm"]
    for first in ("0 examples done, 2 failed", "0 examples done; 2 finished before"):
        code, out, err = spri(*command, f"base=hosted_vllm/mock?api_base={broken.base_url}")
        assert code == 1
        assert "0 done, 2 failed" in out and out.count("UnreadableAnswer: ") == 2
        assert "2 failed; the same command with --retry-errors tries these once more" in err
        assert "next: spri show r " in err and "spri judge" not in err
        assert err.startswith(f"spri: {first}\n")
    code, out, err = spri(*command, f"base=hosted_vllm/mock?api_base={sound.base_url}", "--retry-errors")
    assert code == 0 and "2 done, 0 failed" in out


# What a run prints


def test_json_prints_records_on_stdout_and_talk_on_stderr(tmp_path):
    code, out, err = spri("run", "reappraisal", "--limit", 3, "--run", "r", "--json")
    records = [Record.from_json(json.loads(line)) for line in out.splitlines()]
    assert code == 0 and records == list(RunDir.read(tmp_path / "r").records()) and len(records) == 3
    done, took, look, judge = err.splitlines()
    assert done == "spri: 3 examples done"
    assert re.fullmatch(r"spri: \d+ LM calls, [\d,]+ tokens in, [\d,]+ out, \$0.00, [\d.]+ s", took)
    assert look.removeprefix("spri: next: spri show r ") in {record.id for record in records}
    assert judge == "spri: next: spri judge r"


def test_stand_in_is_announced_by_the_real_process_and_not_on_stdout(tmp_path):
    done = process("run", "reappraisal", "--limit", 1, "--run", "r", "--json")
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0 and json.loads(done.stdout)["id"]
    assert said[0].startswith("spri: offline stand-in: rule-based text, not a language model")
    assert said[1] == "spri: 1 example done"
    assert said[3:] == [
        f"spri: next: spri show r {json.loads(done.stdout)['id']}",
        "spri: next: spri judge r",
    ]


def test_same_command_again_runs_nothing_and_prints_the_same():
    first = spri("run", "reappraisal", "--limit", 2, "--run", "r", "--json")
    again = spri("run", "reappraisal", "--limit", 2, "--run", "r", "--json")
    assert again[:2] == first[:2]
    assert again[2].splitlines()[0] == "spri: 0 examples done; 2 finished before"
    assert "LM calls" not in again[2]


def rows_about(*losses):
    return [{"id": loss, "post": f"I lost my {loss} and cannot stop thinking about it."} for loss in losses]


@pytest.mark.parametrize("named", [["--run", "r"], []])
def test_inputs_are_checked_when_a_run_begins_and_again_when_they_changed(named, monkeypatch):
    """Checking a hundred thousand inputs against the seeds takes longer than all the rest of a start."""
    checks = []
    survey = run_command._survey
    monkeypatch.setattr(run_command, "_survey", lambda *args: checks.append(1) or survey(*args))
    write(Path("rows.jsonl"), *rows_about("keys", "dog"))
    command = ["run", "reappraisal", "--data", "rows.jsonl", *named]
    assert "2 examples done" in spri(*command)[2]
    assert "0 examples done; 2 finished before" in spri(*command)[2]
    assert len(checks) == 1
    spri(*command, "--limit", "1")
    assert len(checks) == 2, "another part of the data"
    write(Path("rows.jsonl"), *rows_about("keys", "cat"))
    assert spri(*command)[0] == (2 if named else 0)
    assert len(checks) == 3, "other data"


def test_run_without_a_directory_makes_one_and_says_which(tmp_path):
    _, _, err = spri("run", "reappraisal", "--limit", 1)
    (made,) = (tmp_path / "runs").iterdir()
    assert f"spri show runs/{made.name} " in err
    assert "1 finished before" in spri("run", "reappraisal", "--limit", 1)[2]


def test_text_is_answered_in_full():
    code, out, _ = spri("run", "reappraisal", "--text", POST, "--run", "r")
    assert code == 0
    for part in (POST, "principles", "response", "accepted"):
        assert part in out


def test_text_may_come_from_standard_input_and_bring_its_aim():
    command = ["run", "reappraisal", "--text", "-", "--aim", "See what is hers to decide.", "--run", "r"]
    done = process(*command, input=f"{POST}\nAnd I am tired.\n".encode())
    assert done.returncode == 0, done.stderr
    (record,) = RunDir.read("r").records()
    assert record.inputs == {"post": f"{POST}\nAnd I am tired.", "aim": "See what is hers to decide."}
    again = process(*command[:-1], "s", input=b"caf\xe9")
    assert again.returncode == 2 and b"standard input is not UTF-8 text" in again.stderr


def test_input_beside_the_text_is_the_same_as_its_own_option():
    spri("run", "reappraisal", "--text", POST, "--input", "aim=Breathe first.", "--run", "r")
    spri("run", "reappraisal", "--text", POST, "--aim", "Breathe first.", "--run", "s")
    assert next(RunDir.read("r").records()).inputs == next(RunDir.read("s").records()).inputs
    assert RunDir.read("r").manifest["data"] == RunDir.read("s").manifest["data"]
    other = spri("run", "reappraisal", "--text", POST, "--aim", "Breathe twice.", "--run", "s")
    assert_refused(other, 2, "s holds another run (data: ")


def test_columns_of_a_table_are_renamed():
    Path("posts.csv").write_text(f"id,selftext,goal\na,{POST},Write once more.\n")
    code, _, err = spri(
        *[
            "run",
            "reappraisal",
            "--data",
            "posts.csv",
            "--map",
            "post=selftext",
            "--map",
            "aim=goal",
            "--run",
            "r",
        ]
    )
    assert code == 0, err
    assert next(RunDir.read("r").records()).inputs == {"post": POST, "aim": "Write once more."}
    assert RunDir.read("r").manifest["input"]["file"] == "posts.csv"


def test_table_fits_120_columns_and_shows_whole_ids():
    code, out, _ = spri("run", "reappraisal", "--run", "r")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 120
    assert lines[0].split() == ["id", "group", "principles", "response", "answer"]
    found = {line.split()[0]: line for line in lines[1:-1]}
    records = {r.id: r for r in RunDir.read("r").records()}
    assert set(found) == set(records)
    for name, line in found.items():
        assert records[name].group in line and line.count("accepted") == 2
        assert line.rstrip().endswith("…") and len(line.rstrip()) > 100
    assert (
        lines[-1]
        == f"{len(records)} done, 0 failed: {len(records)} principles accepted, {len(records)} response accepted"
    )


def test_long_run_shows_its_first_rows_and_the_count_of_the_others(tmp_path, start_mock):
    data = write(tmp_path / "posts.jsonl", *({"id": f"p{n}", "post": f"{POST} {n}"} for n in range(23)))
    lm = f"base=hosted_vllm/mock?api_base={start_mock().base_url}"
    _, out, _ = spri("run", "reappraisal", "--data", data, "--run", "r", "--lm", lm)
    lines = out.splitlines()
    assert sum(line.startswith("p") for line in lines) == 20
    assert "... and 3 more" in lines and lines[-1].startswith("23 done, 0 failed")


def test_long_runs_without_a_terminal_say_how_far_they_are(monkeypatch):
    monkeypatch.setattr(progress, "SAY_EVERY_SECONDS", 0.0)
    _, _, err = spri("run", "reappraisal", "--limit", 3, "--run", "r")
    told = [line for line in err.splitlines() if " of 3 examples" in line]
    assert [line.partition(";")[0] for line in told] == [f"spri: {n} of 3 examples" for n in (1, 2, 3)]
    assert re.search(r"; \d+ calls \([\d.]+/s\), [\d,.k]+ tokens, \$0.00$", told[2])


def test_dry_run_prints_calls_and_writes_nothing(tmp_path, start_mock):
    mock = start_mock()
    lm = f"base=hosted_vllm/mock?api_base={mock.base_url}"
    code, out, _ = spri("run", "reappraisal", "--limit", 3, "--run", "r", "--dry-run", "--lm", lm)
    assert code == 0
    assert "3 examples of reappraisal" in out and "LM calls: 12 to " in out
    assert out.endswith("nothing was run and nothing was written\n")
    code, out, _ = spri("run", "reappraisal", "--limit", 3, "--run", "r", "--dry-run", "--json", "--lm", lm)
    forecast = json.loads(out)
    assert forecast["examples"] == 3
    assert forecast["calls"]["fewest"] <= forecast["calls"]["typical"] <= forecast["calls"]["most"]
    assert mock.stats.received == 0 and list(tmp_path.iterdir()) == []


def test_dry_run_needs_no_key(tmp_path):
    code, out, err = spri("run", "reappraisal", "--dry-run", "--lm", "base=openai/gpt-4o-mini")
    assert code == 0 and "base: openai/gpt-4o-mini" in out and "about $0.0" in out, err
    assert list(tmp_path.iterdir()) == []


def test_command_alone_prints_its_help():
    code, out, err = spri()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: spri") and "show" in out and "doctor" in out


# Looking at one example


def make_record(**fields):
    trace = (
        Round("principles", "first draft", Verdict("too short", 2)),
        Round("principles", "second draft", Verdict("silent", None)),
        Round("principles", "second draft", Verdict("better", 4), 1),
        Round("response", "the letter", Verdict("good", 5)),
    )
    known = {
        "id": "a",
        "inputs": {"post": POST},
        "outputs": {"principles": "second draft", "response": "the letter"},
        "stop_reasons": {"principles": "accepted", "response": "accepted"},
        "trace": trace,
        "usage": {"base": Usage(3, 0, 10, 20), "critic": Usage(4, 1, 30, 40)},
        "seconds": 1.5,
        "group": "family",
    }
    return Record(**{**known, **fields})


def write_run(*records):
    with RunDir.create("r", {}) as run:
        for record in records:
            run.append(record)


def in_order(text, *parts):
    place = 0
    for part in parts:
        found = text.find(part, place)
        assert found >= 0, f"{part!r} is not in {text[place:]!r}"
        place = found + len(part)


def test_show_tells_an_example_in_the_order_in_which_it_went():
    write_run(make_record())
    code, out, err = spri("show", "r", "a")
    assert (code, err) == (0, "")
    in_order(
        out,
        "a · family",
        POST,
        "principles: draft",
        "first draft",
        "score 2",
        "too short",
        "principles: refined",
        "second draft",
        "no readable score",
        "silent",
        "score 4, asked again (1)",
        "better",
        "response: draft",
        "the letter",
        "score 5",
        "principles ended: accepted",
        "base: 3 calls, 10 tokens in, 20 out",
        "critic: 4 calls + 1 from the cache",
    )
    assert out.count("second draft") == 1 and "kept" not in out


def test_show_tells_which_candidate_was_kept_where_it_is_not_the_last():
    trace = (
        Round("response", "the better one", Verdict("f", 3)),
        Round("response", "the last", Verdict("f", 1)),
    )
    write_run(make_record(trace=trace, outputs={"response": "the better one"}))
    in_order(spri("show", "r", "a")[1], "the better one", "the last", "response: kept", "the better one")


def test_show_prefers_an_example_that_was_refined():
    write_run(make_record(id="plain", trace=make_record().trace[-1:]), make_record(id="refined"))
    assert "refined · family" in spri("show", "r")[1]


def test_show_of_a_failed_example_says_why():
    write_run(Record("a", {"post": POST}, error="LMServerError: the server had [an] error"))
    in_order(spri("show", "r", "a")[1], POST, "error", "LMServerError: the server had [an] error")


def test_show_of_an_unknown_id_is_one_line_with_the_menu():
    write_run(make_record(id="a"), make_record(id="b"))
    assert_refused(spri("show", "r", "c"), 2, "r has no finished example 'c'; it has a, b")


def test_show_of_a_run_without_records_is_one_line():
    write_run()
    assert_refused(spri("show", "r"), 2, "r has no finished example yet")
    assert_refused(spri("show", "r", "a"), 2, "it has none yet")


def test_show_as_json_is_the_record():
    write_run(make_record())
    assert Record.from_json(json.loads(spri("show", "r", "a", "--json")[1])) == make_record()


HOSTILE = "[bold]no markup[/] [/wrong] :smile: \x1b]0;title\x07\x1b[31mred \x9b32m \u202eturn\u2066 \ud800 a tab\there"
NAMED = HOSTILE.replace("\ud800", "\udc9b")  # as a byte that is no UTF-8 comes in from a command line
COMMANDING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def test_text_that_would_command_the_terminal_is_shown_and_not_obeyed():
    hostile = make_record(
        id="[/x]",
        group="[red]",
        inputs={"post": HOSTILE},
        outputs={"response": HOSTILE},
        trace=(Round("response", HOSTILE, Verdict(HOSTILE, 5)),),
    )
    write_run(hostile)
    for command in (("show", "r"), ("show", "r", "[/x]")):
        code, out, err = spri(*command)
        assert (code, err) == (0, "")
        assert out.count("[bold]no markup[/] [/wrong] :smile:") == 3 and "[/x] · [red]" in out
        assert not COMMANDING.search(out)


def hostile_record(number):
    """A record whose every text, field name included, holds what would command a terminal."""
    failed = {"error": f"LMServerError: {HOSTILE}", "outputs": {}, "trace": ()} if number == 2 else {}
    return make_record(
        id=f"{number} {HOSTILE}",
        group=HOSTILE,
        inputs={HOSTILE: HOSTILE},
        stop_reasons={HOSTILE: HOSTILE, "response": "[/x]"},
        usage={HOSTILE: Usage(1, 1, 1, 1)},
        labels={"human_score": number},
        **{
            "outputs": {HOSTILE: HOSTILE, "response": {"score": number, "feedback": HOSTILE}},
            "trace": (Round(HOSTILE, HOSTILE, Verdict(HOSTILE, 5)),),
            **failed,
        },
    )


@pytest.mark.parametrize(
    "command",
    [
        ["show", "RUN"],
        ["show", "RUN", f"2 {HOSTILE}"],
        ["show", "RUN", NAMED],
        ["show", "RUN", "--json"],
        ["show", f"no{NAMED}such"],
        ["judge", "RUN"],
        ["judge", "RUN", "--json"],
        ["judge", "RUN", "--judge", NAMED],
        ["judge", "RUN", "--judge", "generic", "--lm", "judge=offline"],
        ["export", "RUN", "--format", "rubrics"],
        ["export", "RUN", "--format", NAMED],
        ["ls", "."],
        ["ls", ".", "--json"],
        ["ls", NAMED],
        ["run", NAMED],
        ["run", "reappraisal", "--data", NAMED],
        ["run", "reappraisal", "--system", f"{NAMED}.py:x"],
        ["run", "reappraisal", "--lm", f"base=openai/{NAMED}"],
        ["run", "reappraisal", "--run", "RUN"],
        ["doctor", "--lm", f"base=openai/x?api_base=http://{NAMED}"],
    ],
    ids=lambda command: " ".join(map(ascii, command))[:60],
)
def test_no_command_lets_text_of_others_reach_the_terminal_as_commands(command):
    run = "r \x1b[31m\u202e"
    lms = {"base": f"openai/{HOSTILE}", "judge": HOSTILE}
    manifest = {
        "task": "rubrics",
        "system": HOSTILE,
        "lms": lms,
        "models": lms,
        "settings": {HOSTILE: HOSTILE},
    }
    with RunDir.create(run, json.loads(json.dumps(manifest).replace("\\ud800", "?"))) as directory:
        for number in (1, 2, 3, 4):
            directory.append(hostile_record(number))
    code, out, err = spri(*(run if word == "RUN" else word for word in command))
    assert code in (0, 1, 2, 3) and "Traceback" not in err
    assert not COMMANDING.search(out + err)
    if "--json" in command:
        assert json.loads(out)


def test_hostile_text_is_printed_as_json_by_a_process_of_any_encoding():
    write_run(make_record(inputs={"post": HOSTILE + " café 世"}))
    for encoding in ("utf-8", "ascii", "latin-1"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = process("show", "r", "a", "--json", env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.decode(encoding))["inputs"]["post"] == HOSTILE + " café 世"
        assert process("show", "r", "a", env=environment).returncode == 0


def test_reader_that_goes_away_makes_no_noise():
    write_run(*(make_record(id=f"p{n}", inputs={"post": POST * 200}) for n in range(100)))
    code = "from spri_dspy.cli import main; import sys, os, signal; os.dup2(int(sys.argv.pop()), 1); main()"
    for command in (["show", "r", "p99"], ["show", "r", "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = process(*command, writer, code=code, pass_fds=[writer])
        os.close(writer)
        assert done.stderr == b""


def test_closed_stdout_loses_no_run_and_is_said():
    closed = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    done = process(MAIN, "run", "reappraisal", "--limit", 2, "--run", "r", code=closed)
    assert done.returncode == 0, done.stderr
    assert (
        b"Traceback" not in done.stderr
        and b"stdout is closed, so the results were not printed" in done.stderr
    )
    assert len(RunDir.read("r").finished()) == 2
    with open("r/records.jsonl", encoding="utf-8") as lines:
        assert [json.loads(line)["id"] for line in lines] == [
            record.id for record in RunDir.read("r").records()
        ]


@pytest.mark.parametrize(
    "command", [["show", "r"], ["show", "r", "--json"], ["judge", "r"], ["doctor"], ["--help"]]
)
def test_full_stdout_is_one_line(command):
    write_run(make_record(outputs={"response": {"score": 3, "feedback": POST * 300}}))
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *command], stdout=full, stderr=subprocess.PIPE, check=False
        )
    said = "spri: the output cannot be written: No space left on device; what was run before is kept"
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[-1] == said
    assert b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1 + (command == ["doctor"])


# What starting takes

CLOSED_NETWORK = """
import socket, sys
def closed(*args, **kwargs):
    raise SystemExit(f"reached for the network: {args}")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = closed
from spri_dspy.cli import main
main()
"""


@pytest.mark.parametrize("command", ["--help", "run reappraisal --limit 2 --run r", "doctor"])
def test_commands_reach_for_no_network(command):
    done = process(*command.split(), code=CLOSED_NETWORK)
    assert done.returncode == 0, done.stderr


HEAVY = """
import sys
from spri_dspy.cli import main
try:
    main()
finally:
    heavy = {"dspy", "litellm", "datasets", "scipy", "numpy", "pandas", "rich.table"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_help_loads_nothing_heavy():
    done = process("--help", code=HEAVY)
    assert (done.returncode, done.stderr) == (0, b"[]\n")
    assert done.stdout.startswith(b"Usage: spri")


def test_show_loads_no_lm_library():
    write_run(make_record())
    done = process("show", "r", "a", code=HEAVY)
    assert (done.returncode, done.stderr) == (0, b"['rich.table']\n") or done.stderr == b"[]\n"
