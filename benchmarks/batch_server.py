"""Batch APIs on loopback, OpenAI's and Anthropic's, with answers that are known and faults that are planned.

`python -m benchmarks.batch_server CONFIG_JSON` prints its port and serves until its standard input closes. It answers
what `benchmarks.load_server` does, live calls too, so that a run ends in the same records whichever way its calls went;
the same prompt gets the same answer however often it is asked. It counts what it would be paid for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from benchmarks.load_server import Load, answer_text

_MARK = re.compile(r"#(\d+)#")
_USAGE = {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460}


@dataclass
class Plan:
    """How the server behaves. Batches and attempts to create one are numbered from 1.

    Attributes:
        seconds: that a batch takes.
        accept: probability that a critic's score is 5; it is 3 otherwise.
        error_rate, miss_rate, late_rate: shares of requests that end in an error, in no line, or expired.
        double_rate: share of answers that stand in the output twice.
        expire: batches that end expired, having done half of their requests.
        expire_whole: batches that end expired, having done nothing.
        refuse: attempts to create a batch that get a 429.
        limit: batches that fail because too many tokens are enqueued.
        lose: attempts to create a batch that come to one, of which the client never hears.
        fail: batches that fail for good.
        hang: batches that go on until they are cancelled.
        unreadable: share of prompts that are answered in no format, each time.
        stop_seconds: that a batch takes to stop once it is cancelled.
        stop_done: share of its requests that are done by then.
        no_cancel, no_delete: the status that a request to cancel a batch, or to delete a file, is answered with; 0 does
            what is asked.
    """

    seed: int = 0
    seconds: float = 0.2
    accept: float = 0.72
    error_rate: float = 0.0
    miss_rate: float = 0.0
    late_rate: float = 0.0
    double_rate: float = 0.0
    unreadable: float = 0.0
    stop_seconds: float = 0.0
    stop_done: float = 0.5
    no_cancel: int = 0
    no_delete: int = 0
    expire: list[int] = field(default_factory=list)
    expire_whole: list[int] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    limit: list[int] = field(default_factory=list)
    lose: list[int] = field(default_factory=list)
    fail: list[int] = field(default_factory=list)
    hang: list[int] = field(default_factory=list)


class Server:
    """Both batch APIs, and the live endpoints beside them."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.load = plan, Load(seed=plan.seed, accept=plan.accept)
        self.faults = random.Random(plan.seed)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.steps: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self.paid: Counter[str] = Counter()
        self.bodies: dict[str, str] = {}
        self.sizes: list[int] = []
        self.live = self.attempts = self.uploads = self.cancels = self.deletions = 0
        self.deleted: set[str] = set()

    def text(self, body: dict[str, Any]) -> str:
        """The answer to a prompt, the same each time."""
        prompt = json.dumps([body.get("system"), body["messages"]], sort_keys=True)
        marks = _MARK.findall(prompt)
        example = int(marks[-1]) if marks else 0
        steps = self.steps[example]
        step = steps.setdefault(prompt, len(steps))
        if random.Random(f"{self.plan.seed} {prompt}").random() < self.plan.unreadable:
            return ""
        return answer_text(example, step, self.load.draw(example, step)[1])

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer in OpenAI's form."""
        self.note(body)
        message = {"role": "assistant", "content": self.text(body)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": _USAGE}

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer in Anthropic's form."""
        self.note(body)
        content, usage = (
            [{"type": "text", "text": self.text(body)}],
            {"input_tokens": 400, "output_tokens": 60},
        )
        about = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
        return {**about, "content": content, "usage": usage}

    def note(self, body: dict[str, Any]) -> None:
        """Count a request that is paid for."""
        self.paid[hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()] += 1

    def begin(self, rows: list[dict[str, Any]], **about: Any) -> tuple[dict[str, Any], str | None]:
        """A new batch, and what is to go wrong with its creation."""
        self.attempts += 1
        if self.attempts in self.plan.refuse:
            return {}, "refuse"
        number = len(self.batches) + 1
        batch = {"id": f"batch_{number}", "number": number, "rows": rows, "at": time.time(), **about}
        self.batches[batch["id"]] = batch
        self.sizes.append(len(rows))
        return batch, "lose" if self.attempts in self.plan.lose else None

    def done(self, batch: dict[str, Any]) -> bool:
        """Whether a batch is over; it is carried out when it is looked at after that."""
        stopped = batch.get("stopped")
        due = batch["at"] + self.plan.seconds if stopped is None else stopped + self.plan.stop_seconds
        if time.time() < due or (stopped is None and batch["number"] in self.plan.hang):
            return False
        if "out" not in batch:
            batch["out"] = self._carry_out(batch)
        return True

    def _carry_out(self, batch: dict[str, Any]) -> list[tuple[str, str, Any]]:
        """Custom id, what became of it ("done", "error", "late", "stopped") and the answer, in any order."""
        plan, rows, out = self.plan, list(batch["rows"]), []
        self.faults.shuffle(rows)
        most = 0 if batch["number"] in plan.expire_whole else len(rows)
        most = len(rows) // 2 if batch["number"] in plan.expire else most
        n_run = len(rows) if batch.get("stopped") is None else int(plan.stop_done * len(rows))
        out += [
            (row["custom_id"], "stopped", None) for row in rows[n_run + 1 :]
        ]  # and one that is in no line
        for number, row in enumerate(rows[:n_run]):
            draw = self.faults.random()
            if number >= most or draw < plan.late_rate:
                out.append((row["custom_id"], "late", None))
            elif draw < plan.late_rate + plan.error_rate:
                out.append((row["custom_id"], "error", None))
            elif draw >= plan.late_rate + plan.error_rate + plan.miss_rate:
                made = self.message(row["params"]) if "params" in row else self.answer(row["body"])
                out.append((row["custom_id"], "done", made))
                if self.faults.random() < plan.double_rate:
                    out.append(out[-1])
        return out

    # OpenAI's dialect

    async def upload(self, request: web.Request) -> web.Response:
        """POST /files."""
        form = await request.post()
        assert form["purpose"] == "batch"
        self.uploads += 1
        name = f"file-{self.uploads}"
        self.files[name] = form["file"].file.read()  # type: ignore[union-attr] # it is a file
        return web.json_response({"id": name, "object": "file"})

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /files/ID."""
        name = request.match_info["id"]
        if self.plan.no_delete:
            return web.json_response({"error": {"message": "no"}}, status=self.plan.no_delete)
        if name not in self.kept():
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        self.deletions += 1
        self.deleted.add(name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    def kept(self) -> list[str]:
        """The files that are there: those uploaded, and those of batches that are over."""
        failed = (*self.plan.fail, *self.plan.limit)
        carried_out = [batch for batch in self.batches.values() if "file" in batch and "out" in batch]
        over = [batch for batch in carried_out if batch["number"] not in failed]
        made = [f"{kind}_{batch['id']}" for batch in over for kind in ("out", "err")]
        return [name for name in (*self.files, *made) if name not in self.deleted]

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /batches/ID/cancel, in either dialect."""
        batch = self.batches.get(request.match_info["id"])
        if batch is None or self.plan.no_cancel:
            said = {"error": {"message": "no", "code": "not_allowed"}}
            return web.json_response(said, status=404 if batch is None else self.plan.no_cancel)
        if self.done(batch):
            error = {"message": "Cannot cancel a batch that is over", "code": "invalid_status"}
            return web.json_response({"error": error}, status=409)
        self.cancels += 1
        batch.setdefault("stopped", time.time())
        show = self._openai if "file" in batch else self._anthropic
        return web.json_response(show(batch))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /batches."""
        asked = await request.json()
        rows = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert {row["url"] for row in rows} == {asked["endpoint"]} == {"/v1/chat/completions"}
        assert len({row["custom_id"] for row in rows}) == len(rows)
        batch, fault = self.begin(rows, metadata=asked.get("metadata"), file=asked["input_file_id"])
        return await self._created(request, fault, self._openai(batch) if batch else {})

    async def _created(
        self, request: web.Request, fault: str | None, said: dict[str, Any]
    ) -> web.StreamResponse:
        if fault == "refuse":
            error = {"message": "Enqueued token limit reached", "code": "token_limit_exceeded"}
            return web.json_response({"error": error}, status=429, headers={"Retry-After": "0.2"})
        if fault == "lose" and request.transport is not None:
            request.transport.close()
        return web.json_response(said)

    def _openai(self, batch: dict[str, Any]) -> dict[str, Any]:
        over, number, plan = self.done(batch), batch["number"], self.plan
        late = number in plan.expire or number in plan.expire_whole
        names = ("cancelling", "cancelled") if "stopped" in batch else ("in_progress", "completed")
        status = "expired" if over and late else names[over]
        done = sum(what == "done" for _, what, _ in batch.get("out", ()))
        about: dict[str, Any] = {"id": batch["id"], "object": "batch", "created_at": int(batch["at"])}
        about |= {"metadata": batch["metadata"], "input_file_id": batch["file"], "status": status}
        about["request_counts"] = {"total": len(batch["rows"]), "completed": done, "failed": 0}
        for named, code in (("limit", "token_limit_exceeded"), ("fail", "invalid_json_line")):
            if number in getattr(plan, named):
                batch["out"] = []
                return {**about, "status": "failed", "errors": {"data": [{"code": code, "message": "No."}]}}
        if over:
            about |= {"output_file_id": f"out_{batch['id']}", "error_file_id": f"err_{batch['id']}"}
        return about

    async def look(self, request: web.Request) -> web.Response:
        """GET /batches/ID."""
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        return web.json_response(self._openai(batch))

    async def listed(self, request: web.Request) -> web.Response:
        """GET /batches, two a page."""
        all_of = [self._openai(batch) for batch in reversed(self.batches.values())]
        return web.json_response(self._page(all_of, request.query.get("after")))

    def _page(self, rows: list[dict[str, Any]], after: str | None) -> dict[str, Any]:
        ids = [row["id"] for row in rows]
        begin = ids.index(after) + 1 if after else 0
        return {"data": rows[begin : begin + 2], "has_more": begin + 2 < len(rows)}

    async def content(self, request: web.Request) -> web.Response:
        """GET /files/ID/content."""
        kind, _, batch_id = request.match_info["id"].partition("_")
        if request.match_info["id"] in self.deleted:
            return web.json_response({"error": {"message": "it was deleted"}}, status=404)
        lines = []
        for custom_id, what, made in self.batches[batch_id]["out"]:
            row: dict[str, Any] = {"id": "r", "custom_id": custom_id, "response": None, "error": None}
            if what in ("late", "stopped"):
                code = "batch_expired" if what == "late" else "batch_cancelled"
                row["error"] = {"code": code, "message": "not done"}
            else:
                body = made or {"error": {"message": "broken", "type": "server_error"}}
                row["response"] = {"status_code": 200 if made else 500, "request_id": "q", "body": body}
            if (what == "done") == (kind == "out"):
                lines.append(json.dumps(row))
        return web.Response(body="".join(f"{line}\n" for line in lines).encode())

    # Anthropic's dialect

    async def create_messages(self, request: web.Request) -> web.StreamResponse:
        """POST /messages/batches."""
        rows = (await request.json())["requests"]
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", row["custom_id"]) for row in rows)
        batch, fault = self.begin(rows)
        return await self._created(request, fault, self._anthropic(batch) if batch else {})

    def _anthropic(self, batch: dict[str, Any]) -> dict[str, Any]:
        over = self.done(batch)
        n, stopped = len(batch["rows"]), batch.get("stopped")
        counts = {
            "succeeded" if over else "processing": n
        }  # lines that stand twice, or nowhere, change nothing
        if over and stopped is not None:
            n_done = len({name for name, what, _ in batch["out"] if what != "stopped"})
            counts = {"succeeded": n_done, "canceled": n - n_done}
        return {
            "id": batch["id"],
            "type": "message_batch",
            "processing_status": "ended" if over else "in_progress" if stopped is None else "canceling",
            "cancel_initiated_at": None if stopped is None else _time(stopped),
            "created_at": _time(batch["at"]),
            "request_counts": {"processing": 0, **counts},
            "results_url": f"https://elsewhere.test/v1/messages/batches/{batch['id']}/results"
            if over
            else None,
        }

    async def look_messages(self, request: web.Request) -> web.Response:
        """GET /messages/batches/ID."""
        return web.json_response(self._anthropic(self.batches[request.match_info["id"]]))

    async def listed_messages(self, request: web.Request) -> web.Response:
        """GET /messages/batches, two a page."""
        all_of = [self._anthropic(batch) for batch in reversed(self.batches.values())]
        return web.json_response(self._page(all_of, request.query.get("after_id")))

    async def results(self, request: web.Request) -> web.Response:
        """GET /messages/batches/ID/results."""
        lines = []
        overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "broken"}}
        for custom_id, what, made in self.batches[request.match_info["id"]]["out"]:
            result: dict[str, Any] = {"type": "succeeded", "message": made}
            if what != "done":
                ends = {"late": {"type": "expired"}, "stopped": {"type": "canceled"}}
                result = ends.get(what) or {"type": "errored", "error": overloaded}
            lines.append(json.dumps({"custom_id": custom_id, "result": result}))
        return web.Response(body="".join(f"{line}\n" for line in lines).encode())

    async def stats(self, _: web.Request) -> web.Response:
        """What was paid for, and how it came; a batch that nobody looks at is paid for too."""
        for batch in self.batches.values():
            if "out" not in batch and batch["number"] not in (*self.plan.limit, *self.plan.fail):
                batch["out"] = self._carry_out(batch)
        counts = {"paid": self.paid.total(), "distinct": len(self.paid), "live": self.live}
        files = {"uploads": self.uploads, "deletions": self.deletions, "files": len(self.kept())}
        counts |= files | {"cancels": self.cancels}
        return web.json_response({**counts, "batches": self.sizes, "attempts": self.attempts})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


async def serve(plan: Plan) -> None:
    """Serve until standard input closes."""
    server = Server(plan)

    @web.middleware
    async def keyed(request: web.Request, handler: Any) -> web.StreamResponse:
        key = request.headers.get("Authorization") or request.headers.get("x-api-key")
        if request.path.startswith("/v1") and not key:
            return web.json_response({"error": {"message": "no key"}}, status=401)
        return await handler(request)

    async def live(request: web.Request) -> web.Response:
        server.live += 1
        make = server.message if request.path.endswith("/messages") else server.answer
        return web.json_response(make(await request.json()))

    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    app = web.Application(client_max_size=2**30, middlewares=[keyed])
    app.router.add_post("/v1/chat/completions", live)
    app.router.add_post("/v1/messages", live)
    app.router.add_post("/v1/files", server.upload)
    app.router.add_delete("/v1/files/{id}", server.delete)
    app.router.add_get("/v1/files/{id}/content", server.content)
    app.router.add_post("/v1/batches", server.create)
    app.router.add_get("/v1/batches", server.listed)
    app.router.add_get("/v1/batches/{id}", server.look)
    app.router.add_post("/v1/batches/{id}/cancel", server.cancel)
    app.router.add_post("/v1/messages/batches", server.create_messages)
    app.router.add_get("/v1/messages/batches", server.listed_messages)
    app.router.add_get("/v1/messages/batches/{id}", server.look_messages)
    app.router.add_get("/v1/messages/batches/{id}/results", server.results)
    app.router.add_post("/v1/messages/batches/{id}/cancel", server.cancel)
    app.router.add_get("/stats", server.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Plan(**json.loads(sys.argv[1]))))
