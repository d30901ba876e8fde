"""Batches of a run that are given up: cancelled at the provider, with what was done by then taken when it goes on."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import spri_dspy as spri
from spri_dspy.lms.batches.api import BatchAPI
from tests.command import assert_refused, process
from tests.command import spri as spri_command
from tests.lms.batch_parts import (
    batch_server,
    child,
    examples,
    finish,
    lm_of,
    program,
    records,
    settings,
    without_usage,
)

DIALECTS = ("openai", "anthropic")


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HOSTED_VLLM_API_KEY"):
        monkeypatch.setenv(name, "sk-test-4f9a1c77d2")


def killed(server, run, dialect="openai", stage="status 2", count=6):
    """A run that died with batches at work."""
    process = child(server, count, run, dialect, *stage.split())
    _, said = process.communicate(timeout=60)
    assert process.returncode == -9, said
    return run


def cancel(server, run, *more, dialect="openai"):
    return spri_command("cancel-batches", run, "--lm", f"base={lm_of(server, dialect)}", *more)


def live_records(server, run, count=6, dialect="openai"):
    spri.run_bulk(program(lm_of(server, dialect)), examples(count), run)
    return without_usage(records(run))


@pytest.mark.parametrize("goes_on", ["live", "batch"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_cancelled_run_keeps_what_was_done_and_asks_the_rest_again(tmp_path, dialect, goes_on):
    with batch_server(hang=[1], stop_seconds=0.3) as server:
        run = killed(server, tmp_path / "run", dialect)
        for _ in range(2):  # it is safe to repeat
            code, out, err = cancel(server, run, dialect=dialect)
            assert code == 0, err
            assert out.startswith("batch 1 (") and "cancelled; " in out and out.count("\n") == 1
            assert "next: the command of that run" in err
        assert server.stats["cancels"] == 1
        lm, said = lm_of(server, dialect), []
        batch = None if goes_on == "live" else settings(dialect, attempts=1)
        spri.run_bulk(program(lm), examples(6), run, batch=batch, on_batch=said.append)
        stats = server.stats
        assert any("3 of 6 answered" in line and "3 to be asked again" in line for line in said)
        assert stats["paid"] == stats["distinct"], "nothing that was done is paid again"
        if goes_on == "live":
            assert stats["batches"] == [6] and stats["live"] == stats["paid"] - 3
        else:
            assert stats["batches"][:2] == [6, 6] and stats["live"] == 0, "it counts as no attempt"
        assert without_usage(records(run)) == live_records(server, tmp_path / "live", dialect=dialect)


DIES = """
import os, signal
from spri_dspy.cli import main
from spri_dspy.lms.batches.api import BatchAPI
usual = BatchAPI.cancel
def cancel(*given):
    usual(*given)
    os.kill(os.getpid(), signal.SIGKILL)
BatchAPI.cancel = cancel
main()
"""


def test_command_that_was_killed_is_repeated(tmp_path):
    with batch_server(hang=[1], stop_seconds=60) as server:
        run = killed(server, tmp_path / "run")
        where = ["cancel-batches", run, "--lm", f"base={lm_of(server)}"]
        assert process(*where, code=DIES).returncode == -9
        code, out, err = cancel(server, run)
        assert code == 0 and "cancelled; 0 of 6 requests were done by now" in out, err
        assert server.stats["cancels"] == 1


def test_batch_that_was_never_created_is_dropped(tmp_path):
    with batch_server() as server:
        run = killed(server, tmp_path / "run", stage="uploaded 1")
        code, out, _ = cancel(server, run)
        assert code == 0 and "was never created" in out
        assert not list((run / "batches").iterdir())
        code, _, err = cancel(server, run)
        assert code == 0 and "has no batch at work" in err
        finish(child(server, 6, run, "live", lm_dialect="openai"))
        assert server.stats["attempts"] == 0, "nothing is sent after all"


def test_batch_that_nobody_heard_of_is_found_and_cancelled(tmp_path):
    with batch_server(seconds=20) as server:
        run = killed(server, tmp_path / "run", stage="created 1")
        code, out, err = cancel(server, run, "--json")
        assert code == 0, err
        (batch,) = json.loads(out)["batches"]
        assert (batch["id"], batch["state"]) == ("batch_1", "cancelled")
        assert server.stats["cancels"] == 1


def test_anthropic_does_not_tell_which_batch_it_is_before_it_has_ended(tmp_path):
    with batch_server(seconds=20) as server:
        run = killed(server, tmp_path / "run", "anthropic", "created 1")
        found = cancel(server, run, dialect="anthropic")
        assert_refused(found, 3, "does not tell yet", "look for it at the provider")
        assert server.stats["cancels"] == 0


def test_batch_that_has_ended_is_left_alone(tmp_path):
    with batch_server(seconds=0.2) as server:
        run = killed(server, tmp_path / "run", stage="status 1", count=2)
        time.sleep(0.2)
        code, out, _ = cancel(server, run)
        assert code == 0 and "had ended, with 2 of 2 requests done" in out
        finish(child(server, 2, run))
        assert server.stats["cancels"] == 0
        assert server.stats["paid"] == server.stats["distinct"]


def test_batch_that_ends_while_it_is_cancelled_is_no_error(tmp_path, monkeypatch):
    usual = BatchAPI.cancel

    def late(api, batch_id):
        time.sleep(2)
        usual(api, batch_id)

    monkeypatch.setattr(BatchAPI, "cancel", late)
    with batch_server(seconds=2) as server:
        code, out, err = cancel(server, killed(server, tmp_path / "run"))
        assert code == 0 and "had ended" in out, err
        assert server.stats["cancels"] == 0


def test_failed_batch_is_dropped_so_that_its_calls_are_asked_again(tmp_path):
    with batch_server(seconds=0.2, fail=[1]) as server:
        run = tmp_path / "run"
        with pytest.raises(spri.PrerequisiteError, match="invalid_json"):
            spri.run_bulk(program(lm_of(server)), examples(2), run, batch=settings("openai"))
        code, out, err = cancel(server, run)
        assert code == 0 and "had failed" in out, err
        finish(child(server, 2, run))
        assert server.stats["files"] == 0


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    with batch_server(seconds=20) as server:
        run = killed(server, tmp_path / "run")
        assert_refused(spri_command("cancel-batches", run), 2, "name the LMs", "are --lm base=openai/m\n")
        other = "base=openai/m?api_base=http://127.0.0.1:9/v1"
        assert_refused(spri_command("cancel-batches", run, "--lm", other), 2, "another LM, address or key")
        monkeypatch.delenv("OPENAI_API_KEY")
        assert_refused(spri_command("cancel-batches", run, "--lm", "base=openai/m"), 3, "set OPENAI_API_KEY")
        assert_refused(
            spri_command("cancel-batches", tmp_path, "--lm", "base=openai/m"), 2, "no run directory"
        )
        assert server.stats["cancels"] == 0


@pytest.mark.parametrize(("status", "said"), [(403, "refuses: 403 not_allowed no"), (503, "tries again")])
def test_refusal_is_said_in_one_line_and_a_later_try_goes_through(tmp_path, status, said):
    with batch_server(seconds=20, no_cancel=status) as server:
        run = killed(server, tmp_path / "run")
        assert_refused(cancel(server, run), 3, "batch 1 (openai/m): not cancelled", said)


def test_run_that_goes_on_is_not_touched(tmp_path):
    with batch_server(seconds=20) as server:
        process = child(server, 2, tmp_path / "run")
        try:
            while not server.stats["batches"]:
                time.sleep(0.1)
            assert_refused(cancel(server, tmp_path / "run"), 2, "is in use by another process")
        finally:
            process.kill()
            process.communicate()


def test_run_without_batches_says_so_and_names_judged_runs_that_may_have_some(tmp_path):
    run = tmp_path / "run"
    assert spri_command("run", "reappraisal", "--limit", 1, "--run", run)[0] == 0
    (run / "judged" / "generic" / "batches").mkdir(parents=True)
    code, out, err = spri_command("cancel-batches", run)
    assert (code, out) == (0, "")
    assert "has no batch at work" in err and f"next: spri cancel-batches {run}/judged/generic" in err


class Elsewhere(BaseHTTPRequestHandler):
    """Somebody's server that would like to have a key."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_DELETE = do_GET  # noqa: N815 - as http.server names them

    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere():
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("is_stored", [False, True])
def test_run_directory_sends_no_key_elsewhere(tmp_path, elsewhere, is_stored):
    """Whoever wrote the directory may name an address in it, with the group's name that fits it."""
    from spri_dspy.event_loop import run_to_end
    from spri_dspy.lms.batches.groups import group_of, request_of
    from spri_dspy.lms.batches.settings import Target
    from spri_dspy.lms.spec import load_lm

    with batch_server(seconds=20) as server:
        run, lm = killed(server, tmp_path / "run"), lm_of(server)
        path, url = run / "batches" / "0001.json", f"http://127.0.0.1:{elsewhere.server_port}/v1"
        loaded = load_lm(lm)
        forged = group_of(loaded, run_to_end(request_of(loaded)), Target("openai", url)).name
        said = json.loads(path.read_text()) | {"url": url, "group": forged, "stored": is_stored}
        path.write_text(json.dumps(said))
        code, _, err = cancel(server, run)
        assert code == (0 if is_stored else 2), err
        if is_stored:
            spri.run_bulk(program(lm), examples(6), run)
        else:
            assert f"--batch {url}" in err
            with pytest.raises(spri.PrerequisiteError, match="sent to another address"):
                spri.run_bulk(program(lm), examples(6), run)
        assert elsewhere.seen == []
        assert server.stats["cancels"] == 0


@pytest.mark.parametrize("name", ["batch_id", "file_id", "dialect"])
def test_damaged_batch_is_refused_in_one_line(tmp_path, name):
    with batch_server(seconds=20) as server:
        run = killed(server, tmp_path / "run")
        path = run / "batches" / "0001.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: "../files"}))
        assert_refused(cancel(server, run), 2, os.fspath(path), "cannot be read")


def test_batch_of_another_run_is_left_alone(tmp_path):
    """The directory names a batch that it did not create."""
    with batch_server(seconds=20) as server:
        runs = [killed(server, tmp_path / name) for name in "ab"]
        path = runs[0] / "batches" / "0001.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"batch_id": "batch_2"}))
        assert_refused(cancel(server, runs[0]), 3, "batch_2 is another batch")
        assert server.stats["cancels"] == 0
