"""Exports pushed to the Hugging Face hub, by its own client, to a stand-in of the hub on loopback."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.command import spri as command

KEY = "hf_abcdefghijklmnopqrstuvwxyzabcdef"


class Hub(BaseHTTPRequestHandler):
    """The four requests of an upload; what was committed is kept by path."""

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        hub.asked.append((self.path, self.headers.get("Authorization")))
        here = f"http://127.0.0.1:{hub.server_port}/datasets/me/rubrics"
        said = {}
        if self.path.endswith("/repos/create"):
            hub.created = json.loads(body)
            said = {"url": here}
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            said = {"files": [file | {"shouldIgnore": False} for file in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            said = {"commitUrl": f"{here}/commit/0", "commitOid": "0" * 40, "success": True}
        if hub.refuses:
            said = {"error": "You don't have the rights to do this"}
        data = json.dumps(said).encode()
        self.send_response(403 if hub.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_HEAD = _answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.files, server.created, server.refuses = [], {}, None, False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("run", "rubrics", "--limit", 3, "--run", "r")[0] == 0
    return "r"


def export(run, name, hub=None, token=KEY):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_HOME": os.path.abspath("home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"} if hub else {}
    env |= {"HF_TOKEN": token} if token else {}
    code = "from spri_dspy.cli import main; main()"
    asked = [sys.executable, "-c", code, "export", run, "--format", "rubrics", "--to", f"hub:{name}"]
    return subprocess.run(asked, env=env, capture_output=True, text=True, timeout=120)


def test_push_makes_a_private_data_set_with_rows_and_card(run, hub):
    from pyarrow import parquet

    done = export(run, "me/rubrics", hub)
    assert done.returncode == 0, done.stderr
    assert "/datasets/me/rubrics (private where it is new)" in done.stdout
    assert hub.created["visibility"] == "private" and hub.created["type"] == "dataset"
    assert set(hub.files) == {"README.md", "data/train-00000-of-00001.parquet"}
    table = parquet.read_table(io.BytesIO(hub.files["data/train-00000-of-00001.parquet"]))
    assert table.num_rows >= 1 and "rubric" in table.column_names
    assert b"data/train-00000-of-00001.parquet" in hub.files["README.md"]
    assert all(KEY.encode() not in content for content in hub.files.values())
    assert export(run, "me/rubrics", hub).returncode == 0  # once more replaces it


def test_refusal_keeps_the_folder_and_says_what_to_do(run, hub):
    hub.refuses = True
    done = export(run, "me/rubrics", hub)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "the hub did not take me/rubrics: 403" in done.stderr and "hf upload me/rubrics" in done.stderr
    assert KEY not in done.stderr
    assert os.path.isfile("r/exports/rubrics-hub/README.md")


def test_without_a_token_or_a_name_nothing_is_written(run):
    done = export(run, "me/rubrics", token=None)
    assert done.returncode == 3 and "set HF_TOKEN" in done.stderr
    done = export(run, "rubrics")
    assert done.returncode == 2 and "hub:USER/NAME" in done.stderr
    assert not os.path.exists("r/exports")
