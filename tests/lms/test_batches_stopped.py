"""Runs in batches that are stopped: by Ctrl-C, and for programs that no batch carries."""

import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest

import spri_dspy as spri
from tests.command import MAIN
from tests.lms.batch_parts import batch_server, examples, lm_of, settings


def test_interrupt_ends_a_run_at_once_though_the_batch_api_never_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        where = ["--run", tmp_path / "run", "--lm", f"base=hosted_vllm/m?api_base={api}", "--limit", "2"]
        command = [sys.executable, "-c", MAIN, "run", "reappraisal", *where, "--batch", f"{api}?settle=0.1"]
        with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as child:
            silent.settimeout(60)
            with silent.accept()[0]:
                time.sleep(0.2)
                child.send_signal(signal.SIGINT)
                try:
                    assert child.wait(timeout=10) == 130
                finally:
                    child.kill()
            assert child.stderr.read() == "spri: interrupted; the same command goes on where it stopped\n"


class Page(BaseHTTPRequestHandler):
    """A web server that is no batch API: a page in answer to everything, or a redirect."""

    redirect_to = ""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<!doctype html><title>Sign in</title>"
        self.send_response(307 if self.redirect_to else 200)
        if self.redirect_to:
            self.send_header("Location", self.redirect_to)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.do_POST()

    def log_message(self, *_):
        pass


class Redirect(Page):
    redirect_to = "http://127.0.0.1:9/elsewhere"


@pytest.mark.parametrize(
    ("handler", "said"),
    [(Page, "answered with a web page instead of JSON"), (Redirect, "give that address to --batch")],
)
def test_address_of_something_else_is_refused_at_once(tmp_path, handler, said):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{server.server_port}/v1"
        program = spri.SPRI(spri.load_task("reappraisal")).set_lms(base=f"hosted_vllm/m?api_base={api}")
        began = time.monotonic()
        with pytest.raises(spri.PrerequisiteError, match=said):
            spri.run_bulk(program, examples(1), tmp_path / "run", batch=f"{api}?settle=0.1&poll=0.05")
        assert time.monotonic() - began < 20
        server.shutdown()


def test_program_that_calls_its_lm_synchronously_is_refused(tmp_path, monkeypatch):
    class Blocking(spri.SPRI):
        async def acall(self, **inputs):
            return self(**inputs)

    with batch_server(seconds=0.0) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-4f9a1c77d2")
        lm = lm_of(server)
        blocking = Blocking(spri.load_task("reappraisal")).set_lms(base=lm, critic=lm)
        with pytest.raises(spri.UsageError, match=r"no batch carries.*acall"):
            spri.run_bulk(blocking, examples(2), tmp_path / "run", batch=settings("openai"))
        assert server.stats["paid"] == 0
        assert spri.run_bulk(blocking, examples(2), tmp_path / "run").done == 2


def test_program_or_batch_that_cannot_run_leaves_no_directory(tmp_path):
    class Blocking(dspy.Module):
        def forward(self, **inputs):
            return dspy.Prediction()

    with pytest.raises(spri.UsageError, match="Blocking has no aforward"):
        spri.run_bulk(Blocking(), examples(1), tmp_path / "run")
    program = spri.SPRI(spri.load_task("reappraisal")).set_lms(base="offline")
    with pytest.raises(spri.UsageError, match="offline has no batch API"):
        spri.run_bulk(program, examples(1), tmp_path / "run", batch="openai")
    assert not (tmp_path / "run").exists()
