"""Calls of a run into batches: all that are ready go into one, and examples go on as its answers come.

    ready call -> requests of the next batch -> (all wait, or the file is full) -> upload -> create -> wait -> results

A call is made by the LM's own client, up to the connection: what it would have sent goes into the file, byte for byte,
and what comes back is read as a live answer is. Everything is on disk before it happens at the provider, so a run that
is killed goes on with the batches that it had sent. It knows keys, requests and answers; no prompt and no example.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from spri_dspy.errors import PrerequisiteError, SpriError
from spri_dspy.lms.batches.api import Answer, BatchAPI
from spri_dspy.lms.batches.carrier import carry, clear
from spri_dspy.lms.batches.groups import Group, group_of, group_of_batch, request_of
from spri_dspy.lms.batches.news import News
from spri_dspy.lms.batches.settings import BatchSettings
from spri_dspy.lms.batches.store import Batch, BatchStore, Spool
from spri_dspy.lms.budget import Budget, price_of
from spri_dspy.lms.scope import POST

logger = logging.getLogger(__name__)

_AT_ONCE = 100
"""Answers that are handed out before others get a turn."""

_NOTHING = 503, b'{"error":{"message":"no batch brought an answer"}}'
"""What the client of an LM is told whose call is to be made live."""

_NOT_TRIED = Answer("", None, b"")
"""What a call gets whose batch was cancelled before this start: it is asked again, as if it had been in none."""

_LIVE = Answer("", None, b"")
"""What a call gets that is to be made live although no batch failed it."""


class Batches:
    """The batches of one run; use it as an asynchronous context manager, within the run's event loop.

    Args:
        folder: RUN/batches.
        settings: None makes new calls live, and takes the answers of batches that were sent by an earlier start.
        cache: the run's, to know which answers are stored.
        budget: the run's; calls that wait in batches of earlier starts count as begun.
        lms: the run's, for their prices.
        say: told what happens, a line each.

    Attributes:
        collects: whether new calls go into batches.
    """

    def __init__(
        self,
        folder: Path,
        settings: BatchSettings | None,
        cache: Any,
        budget: Budget | None = None,
        lms: Iterable[Any] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings or BatchSettings(())
        self.collects, self._cache, self._budget = settings is not None, cache, budget
        self._store, self._news = BatchStore(folder), News(say or logger.info)
        self._waiting: dict[str, asyncio.Future[Answer | None]] = {}
        self._tries: dict[str, int] = {}
        self._live = set[str]()  # calls that are to be made live although no batch failed them
        self._spools: dict[str, Spool] = {}
        self._groups: dict[str, Group] = {}
        self._known: dict[str, Batch] = {}  # calls in batches of earlier starts that nobody has asked for yet
        self._places: dict[str, int] = {}  # of these, where their answers are
        self._stale: dict[
            int, set[str]
        ] = {}  # of these batches, calls whose answers were stored by earlier starts
        self._handed = set[int]()  # batches whose answers were handed out
        self._unstored: dict[str, Batch] = {}  # calls whose answers are not in the cache yet
        self._n_unstored: Counter[int] = Counter()  # how many, by batch
        self._tasks: set[asyncio.Task[None]] = set()
        self._clearing: set[asyncio.Task[None]] = set()
        self._lms = [lm for lm in lms if getattr(lm, "spec", None)]
        self._broken: BaseException | None = None
        self._last_asked, self._timer = 0.0, None
        self._resume()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to wait for, nothing to collect, and nothing to delete."""
        return not self.collects and not self._known and not self._uncleared

    @property
    def _uncleared(self) -> list[Batch]:
        """Batches that an earlier start was done with, and whose files may be at the provider."""
        return [batch for batch in self._store.batches if batch.stored and not batch.deleted]

    def window_of(self, program: Any) -> int:
        """How many examples to have open: no more than `--max-calls` pays for, or all would end half done."""
        typical = getattr(program, "calls", None)
        most = self._budget.max_calls if self._budget else None
        paid = self.settings.window if most is None or not typical else int(most / typical[1])
        return max(1, min(self.settings.window, paid))

    def _resume(self) -> None:
        """Know the calls that are in batches of earlier starts; what these cost less than was counted comes back."""
        lms = {lm.spec.model: lm for lm in self._lms}
        for batch in self._store.batches:
            if not batch.stored:
                keys = set(self._store.keys(batch))
                stale = set[str]() if batch.ended is None else {key for key in keys if key in self._cache}
                self._known |= dict.fromkeys(keys - stale, batch)
                self._stale[batch.number] = stale
            elif self._budget is not None and self._budget.max_usd is not None and batch.model in lms:
                given, got = price_of(lms[batch.model])
                saved = batch.tokens_in * given + batch.tokens_out * got
                self._budget.usd -= saved * self.settings.discount
        if self._budget is not None:
            self._budget.calls += len(self._known)

    async def __aenter__(self) -> Batches:
        models = {batch.model for batch in self._uncleared}
        for lm in [lm for lm in self._lms if lm.spec.model in models]:
            request = await request_of(lm)
            for batch in self._uncleared if request is not None else ():
                group = group_of_batch(batch, lm, request, self.settings if self.collects else None)
                if group is not None:
                    self._clear(batch, group.api)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error[0] is None:
            await asyncio.gather(*self._clearing)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for spool in self._spools.values():
            spool.out.close()

    async def call(
        self, lm: Any, key: str, ask: Callable[[], Awaitable[Any]], live: Callable[[], Awaitable[Any]]
    ) -> Any:
        """One attempt at a call: in a batch, or live where batches have failed it often enough.

        Args:
            lm: which is asked.
            key: what its answer is stored under.
            ask: makes the call with whatever POST says for a connection.
            live: makes it without a batch.
        """
        is_known = key in self._known
        if not is_known and (not self.collects or self._tries.get(key, 0) >= self.settings.attempts):
            return await live()
        if is_known and self._budget is not None:
            self._budget.calls -= 1  # it was counted when it was found
        token = POST.set(partial(self._post, lm, key))
        try:
            with self._metered(lm):
                outputs = await ask()
            self._soon_stored(key)
            return outputs
        except Exception:
            if self._broken:
                raise
            self._soon_stored(key)  # an answer that is of no use is not kept for a restart either
            if key not in self._live and self._tries.get(key, 0) < self.settings.attempts:
                raise
        finally:
            POST.reset(token)
        if key not in self._live:
            self._news.say(f"a call failed in {self.settings.attempts} batches and is made live")
        self._live.discard(key)
        return await live()

    def _metered(self, lm: Any) -> AbstractContextManager[None]:
        return self._budget.metered(lm, 1 - self.settings.discount) if self._budget else nullcontext()

    def _soon_stored(self, key: str) -> None:
        """A call has ended: before anything else happens in this loop, its answer goes into the cache."""
        asyncio.get_running_loop().call_soon(self._stored, key)

    def _stored(self, key: str) -> None:
        """An answer is in the cache; a batch of which that is true of all is done with."""
        batch = self._unstored.pop(key, None)
        if batch is not None:
            self._n_unstored[batch.number] -= 1
            self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        if batch.number in self._handed and not self._n_unstored[batch.number] and not batch.stored:
            self._store.settle(batch)
            self._clear(batch, self._groups[batch.group].api)

    def _clear(self, batch: Batch, api: BatchAPI) -> None:
        """Have the files of a batch deleted that is done with."""
        self._clearing.add(self._start(clear(batch, api, self._store, self._news)))

    async def _post(self, lm: Any, key: str, request: Any) -> tuple[int, bytes]:
        """Carry one request of the native client by batch: the status and the body that a live call would get."""
        group = self._group(lm, key, request)
        while True:
            if self._broken is not None:
                raise _again(self._broken)
            answer = await self._answer(group, key, request)
            if answer is not None and answer.status is not None and not _may_pass(answer.status):
                self._tries.pop(key, None)
                return answer.status, answer.body
            if answer is _LIVE or (answer is _NOT_TRIED and not self.collects):
                self._live.add(key)
                return _NOTHING
            if answer is _NOT_TRIED:
                continue
            self._tries[key] = self._tries.get(key, 0) + 1
            if self._tries[key] >= self.settings.attempts or not self.collects:
                self._tries[key] = self.settings.attempts
                return _NOTHING

    def _group(self, lm: Any, key: str, request: Any) -> str:
        """The name of the batches that a request may go into: one model, one address, one key."""
        if self.collects:
            group = group_of(lm, request, self.settings.target_of(lm.spec))
        else:
            batch = self._known[key]  # there is no other reason to be here
            group = group_of_batch(batch, lm, request, None)
            if group is None:
                raise self._elsewhere(batch)
        if group.name not in self._groups:
            self._groups[group.name] = group
            for batch in self._store.batches:
                if batch.group == group.name and not batch.stored:
                    self._start(self._carry(batch))
        return group.name

    def _elsewhere(self, batch: Batch) -> PrerequisiteError:
        at = "" if batch.url is None else f" {batch.url}"
        return PrerequisiteError(
            f"batch {batch.number} in {self._store.folder} was sent to another address or with other --batch{at}; "
            "start with those, or remove that folder and pay its calls again"
        )

    async def _answer(self, group: str, key: str, request: Any) -> Answer | None:
        """The answer of one request, None if its batch did not come to it."""
        batch = self._known.pop(key, None)
        if batch is not None and batch.group != group:
            self._known[key] = batch
            raise self._elsewhere(batch)
        if batch is not None and key in self._places:
            return self._store.result_at(batch, self._groups[group].api, self._places.pop(key))
        if batch is not None and batch.number in self._handed:
            return self._not_done(batch)
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if batch is None:
            self._enqueue(group, key, request)
        try:
            return await future
        finally:
            self._waiting.pop(key, None)

    def _enqueue(self, group: str, key: str, request: Any) -> None:
        """Put a request into the next batch, which is sent once it is full, or once all wait."""
        _, api, about = self._groups[group]
        spool = self._spools.get(group)
        most = min(self.settings.requests or api.most_requests, api.most_requests)
        if spool and (len(spool.keys) >= most or spool.size + len(request.body) + 300 > api.most_bytes):
            self._send(group)
            spool = None
        if spool is None:
            spool = self._spools[group] = self._store.spool(group)
        spool.add(api, key, about["endpoint"], request.body)
        loop = asyncio.get_running_loop()
        self._last_asked = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.settings.settle, self._look)

    def _look(self) -> None:
        """Send what is there if no call came for a while, and the loop was not too busy to bring one."""
        loop, settle = asyncio.get_running_loop(), self.settings.settle
        due = self._timer.when() if self._timer else 0.0
        quiet = loop.time() - self._last_asked
        if quiet < settle or loop.time() - due > settle / 2:
            self._timer = loop.call_later(max(settle - quiet, settle / 4), self._look)
            return
        self._timer = None
        try:
            for group, spool in list(self._spools.items()):
                send = self._send if len(spool.keys) >= self.settings.live_below else self._send_live
                send(group)
        except SpriError as error:
            self._fail(error)

    def _send(self, group: str) -> None:
        batch = self._store.take(self._spools.pop(group), **self._groups[group].about)
        self._start(self._carry(batch))

    def _send_live(self, group: str) -> None:
        """Let the calls of a wave be made live that is not worth a day."""
        spool = self._spools.pop(group)
        spool.discard()
        self._news.small_wave(len(spool.keys), self.settings.live_below)
        for key in spool.keys:
            future = self._waiting.get(key)
            if future is not None and not future.done():
                future.set_result(_LIVE)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carry(self, batch: Batch) -> None:
        """Bring one batch to its end, from wherever it stands."""
        api = self._groups[batch.group].api
        try:
            await carry(batch, api, self._store, self._news, self.settings.poll)
            await self._hand_out(batch, api)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self._news.over(batch)

    async def _hand_out(self, batch: Batch, api: BatchAPI) -> None:
        """Give each answer to whoever waits for it; what was not done goes back to its call as None."""
        good, n_bad, stale = set[str](), 0, self._stale.get(batch.number, set())
        for number, (key, place, answer) in enumerate(self._store.results(batch, api)):
            if answer.status == 200 and key not in good and key not in stale:
                good.add(key)
                self._unstored[key] = batch
                self._n_unstored[batch.number] += 1
                if key in self._known:
                    self._places[key] = place
                elif (future := self._waiting.get(key)) and not future.done():
                    future.set_result(answer)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        refused = {
            k: a
            for k, _, a in self._store.results(batch, api)
            if k not in good and a.status not in (200, None)
        }
        for key in self._store.keys(batch):
            if key in good or self._known.get(key) is batch:
                continue
            future = self._waiting.get(key)
            if future is not None and not future.done():
                n_bad += 1
                future.set_result(refused.get(key) or self._not_done(batch))
        self._handed.add(batch.number)
        self._news.ended(batch, n_bad)
        self._settle(batch)

    def _not_done(self, batch: Batch) -> Answer | None:
        """What a call gets to which its batch did not come."""
        is_given_up = batch.cancelled and batch.number in self._stale
        return _NOT_TRIED if is_given_up else None

    def _fail(self, error: Exception) -> None:
        """Let everybody who waits know that it is in vain."""
        self._broken = error
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(_again(error))


def open_batches(
    folder: Path,
    settings: BatchSettings | None,
    cache: Any,
    budget: Budget | None,
    lms: Iterable[Any],
    say: Callable[[str], None] | None = None,
) -> Batches | None:
    """The batches of a run; None where all calls are made live, and no earlier start left a batch."""
    if settings is None and not folder.is_dir():
        return None
    batches = Batches(folder, settings, cache, budget, lms, say)
    return None if batches.is_idle else batches


def _may_pass(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _again(error: BaseException) -> BaseException:
    """The same error for one more who waits: one object would carry everybody's traceback."""
    return type(error)(*error.args) if isinstance(error, SpriError) else error
