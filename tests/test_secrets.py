"""A server that repeats the key it was sent: wherever its words end up, the key is not among them."""

import json
import os
import traceback
from contextlib import ExitStack
from pathlib import Path

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.lms.scope import Retry
from spri_dspy.redaction import MARK
from tests.command import files, process, write
from tests.command import spri as command
from tests.factories import make_task
from tests.servers.raw import header, http, raw_server

REPOSITORY = Path(__file__).parents[1]
KEY = "q7Zx9Kw2Lm4Np6Rt"  # no shape that gives it away
ROUTES = ("native", "litellm")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),  # LiteLLM's own types
    pytest.mark.usefixtures("loop_for_litellm"),
]


def told(status):
    """The way of OpenAI, which repeats the key in its message."""

    def answer(request):
        key = header(request, "authorization").removeprefix("Bearer ")
        message = (
            f"Incorrect API key provided: {key}. You can find yours at http://me:{key}@host/keys?key={key}"
        )
        return http(json.dumps({"error": {"message": message, "code": "invalid"}}).encode(), status)

    return answer


def page(status):
    """The way of proxies: a page with the request's headers, and a header of its own."""

    def answer(request):
        sent = header(request, "authorization")
        body = f"<html><pre>Authorization: {sent}</pre>{sent.split()[-1]}</html>".encode()
        return http(body, status, {"Content-Type": "text/html", "X-Sent": sent, "WWW-Authenticate": sent})

    return answer


WAYS = {"401": told(401), "500": told(500), "400": told(400), "page 401": page(401), "page 500": page(500)}


@pytest.fixture
def serve(monkeypatch):
    """Start servers; the LM string of each, by route."""
    monkeypatch.setenv("MY_SERVERS_KEY", KEY)
    with ExitStack() as running:

        def start(way, route):
            server = running.enter_context(raw_server(WAYS[way]))
            return f"hosted_vllm/m?api_base={server.base_url}&key_env=MY_SERVERS_KEY&route={route}"

        yield start


def assert_kept(folder, *shown):
    """No file under the folder and nothing that was shown holds the key."""
    for path, content in files(folder).items():
        assert KEY.encode() not in content, path
    for text in shown:
        assert KEY not in (text if isinstance(text, str) else text.decode())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", WAYS)
def test_neither_records_nor_exceptions_hold_the_key(tmp_path, serve, way, route, caplog):
    program = spri.SPRI(make_task()).set_lms(base=serve(way, route))
    once = Retry(attempts=1, patience=0)
    run = lambda: spri.run_bulk(program, [{"id": "q", "question": "why?"}], tmp_path / "run", retry=once)  # noqa: E731
    if "401" in way:
        with pytest.raises(spri.PrerequisiteError, match="every example would fail: LMAuthError: ") as raised:
            run()
        assert_kept(tmp_path, traceback_of(raised.value))
    else:
        run()
        (record,) = spri.RunDir.read(tmp_path / "run").records()
        assert MARK in record.error or "<html>" not in record.error
    assert_kept(tmp_path, caplog.text)


def traceback_of(error):
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", ["401", "page 401", "400"])
def test_program_called_in_python_raises_errors_without_the_key(serve, way, route):
    program = spri.SPRI(make_task()).set_lms(base=serve(way, route))
    with pytest.raises(dspy.LMError) as raised:
        program(question="why?")
    assert_kept(Path("nowhere"), traceback_of(raised.value))


@pytest.mark.parametrize("route", ["native", pytest.param("litellm", marks=pytest.mark.slow)])
def test_no_command_shows_or_writes_the_key(tmp_path, serve, route, monkeypatch):
    """Run, judge, tune, doctor, export and show, each with all that it logs."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    posts = (REPOSITORY / "optimize/data/reappraisal.jsonl").read_text("utf-8").splitlines()
    write(tmp_path / "posts.jsonl", *posts)
    (tmp_path / "recipe.toml").write_text(RECIPE % serve("400", route), "utf-8")
    command("run", "reappraisal", "--data", "posts.jsonl", "--limit", "1", "--run", "good")
    lms = {"base": serve("401", route), "critic": serve("400", route)}
    some = ["run", "reappraisal", "--data", "posts.jsonl", "--limit", "1"]
    for arguments in (
        [*some, "--run", "bad", "--lm", f"base={lms['critic']}"],
        [*some, "--run", "no", "--lm", f"base={lms['base']}"],
        ["judge", "good", "--lm", f"judge={lms['critic']}"],
        ["tune", "recipe.toml"],
        ["doctor", *(f"--lm={role}={lm}" for role, lm in lms.items())],
    ):
        is_apart = arguments[0] == "doctor" or "bad" in arguments  # a process shows what is logged
        done = process("-v", *arguments, env=environment) if is_apart else command(*arguments)
        shown = (done.stdout, done.stderr) if is_apart else done[1:]
        assert_kept(tmp_path, *shown)
    assert MARK in str(shown), "the doctor shows what the servers said"
    assert MARK in (tmp_path / "bad/records.jsonl").read_text("utf-8")
    for arguments in (["show", "bad"], ["show", "bad", "--json"], ["export", "bad", "--format", "sft"]):
        assert_kept(tmp_path, *command(*arguments)[1:])


RECIPE = """
task = "reappraisal"
[data]
file = "posts.jsonl"
limit = 24
[lms]
judge = "%s"
[metric]
name = "mix"
[optimizer]
name = "labeled_few_shot"
[output]
run = "tuned"
plot = false
"""
