"""One batch from wherever it stands to its results, over refusals, lost connections and deaths of this process.

    written -> uploaded -> created -> waited for -> results here

Each step is on disk before the next; a step that may have happened unheard is looked for before it is done again. It
knows batches and their API; it knows no call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from spri_dspy.errors import PrerequisiteError
from spri_dspy.lms.batches.api import BatchAPI, Busy, NotKnown, NotYet
from spri_dspy.lms.batches.news import News
from spri_dspy.lms.batches.store import Batch, BatchStore

T = TypeVar("T")

logger = logging.getLogger(__name__)

LONGEST_POLL, LONGEST_WAIT = 60.0, 300.0
"""Seconds between two looks at a batch at most, and between two attempts to send one."""

PATIENCE = 600.0
"""Seconds for which a batch API may be out of reach before the run stops, resumably."""

APPEARS_WITHIN = 5.0
"""Seconds within which a batch that was created stands in the provider's list."""


async def carry(batch: Batch, api: BatchAPI, store: BatchStore, news: News, poll: float) -> None:
    """Return once the results of a batch are here.

    Args:
        batch: its requests are on disk.
        api: where it goes.
        store: of the run; every step is written there.
        news: told of it.
        poll: seconds before the first look at it.

    Raises:
        PrerequisiteError: it is refused for good, it is gone, or nobody answers for PATIENCE.
        UsageError: a file cannot be written.
    """
    while batch.ended is None:
        await _submit(batch, api, store, news)
        news.waits(batch)
        await _wait(batch, api, store, news, poll)


async def _submit(batch: Batch, api: BatchAPI, store: BatchStore, news: News) -> None:
    """Have a batch created, once: where that may have happened already, it is looked for first."""
    path, wait, reach = store.path(batch, "input.jsonl"), 1.0, _Reach()
    while batch.batch_id is None:
        try:
            if batch.sent is not None:
                batch.batch_id = await find(batch, api, store)
            if batch.batch_id is None:
                if batch.file_id is None:
                    batch.file_id = await beside(api.upload, path)
                batch.sent = time.time()
                store.save(batch)
                batch.batch_id = await beside(api.create, path, batch.file_id, batch.tag, batch.endpoint)
            store.save(batch)
        except (Busy, OSError) as busy:
            if isinstance(busy, Busy) and busy.is_refusal:
                batch.sent, reach = None, _Reach()
                store.save(batch)
            elif not isinstance(busy, NotYet):
                reach.failed(busy)
            wait = max(wait, getattr(busy, "retry_after", 0.0))
            news.say(f"batch {batch.number} is not taken yet ({busy}); once more in {wait:.0f} s")
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def find(batch: Batch, api: BatchAPI, store: BatchStore) -> str | None:
    """The id of a batch whose creation was asked for and not heard of, None if it did not come about.

    Raises:
        NotYet: that cannot be told before batches of as many requests have ended.
        Busy: nobody answers.
        PrerequisiteError: it is refused.
    """
    known = {b.batch_id for b in store.batches if b.batch_id}
    where = batch.tag, batch.file_id, batch.sent or 0.0, batch.n, known
    found = await beside(api.find, *where)
    left = (batch.sent or 0.0) + APPEARS_WITHIN - time.time()
    if found is None and left > 0:
        await asyncio.sleep(left)
        found = await beside(api.find, *where)
    return found


async def _wait(batch: Batch, api: BatchAPI, store: BatchStore, news: News, poll: float) -> None:
    """Wait until a batch has ended and its results are here; one that was never begun is to be sent again."""
    wait, reach = poll, _Reach()
    while batch.ended is None:
        await asyncio.sleep(wait)
        wait = min(1.3 * wait, LONGEST_POLL)
        try:
            status = await beside(api.status, batch.batch_id or "")
            reach = _Reach()
            news.looked(batch, status.done)
            if not status.ended:
                continue
            if status.failed is None:
                batch.cancelled = status.cancelled
                await beside(store.receive, batch, api, status.files)
                continue
        except NotKnown as error:
            raise PrerequisiteError(
                f"{error}; if batch {batch.batch_id} is gone for good, remove "
                f"{store.path(batch, 'json')}: its calls are asked again"
            ) from None
        except (Busy, OSError) as busy:
            reach.failed(busy)
            continue
        if not status.is_limit:
            raise PrerequisiteError(f"batch {batch.number} of {batch.model} failed: {status.failed}")
        news.say(f"batch {batch.number} is not taken yet ({status.failed}); once more in 60 s")
        await asyncio.sleep(min(60.0, 20 * poll))
        batch.batch_id = batch.sent = None
        store.save(batch)
        return


async def clear(batch: Batch, api: BatchAPI, store: BatchStore, news: News) -> None:
    """Delete the files of a batch at the provider, whose answers are in the run's cache: one try, or the next start's.

    Raises:
        UsageError: that it is done cannot be written.
    """
    try:
        if api.has_files:
            status = await beside(api.status, batch.batch_id or "")
            files = (status.file_id, *status.files)
            for name in files if api.is_ours(status, batch.tag, batch.file_id, batch.n) else ():
                if name is not None:
                    await beside(api.delete, name)
    except NotKnown as error:
        logger.debug("batch %d is gone, and its files with it: %s", batch.number, error)
    except (Busy, OSError, PrerequisiteError) as error:
        news.say(
            f"the files of batch {batch.number} are not deleted yet ({error}); the next start tries again"
        )
        return
    batch.deleted = True
    store.save(batch)


async def beside(work: Callable[..., T], *args: Any) -> T:
    """Run work in a thread that nobody waits for once the run is interrupted: a server may hold it for a minute."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def end(tell: Callable[[Any], None], outcome: Any) -> None:
        if not done.cancelled():
            tell(outcome)

    def run() -> None:
        tell: Callable[[Any], None] = done.set_result
        try:
            outcome: Any = work(*args)
        except Exception as error:  # whatever it is, it is for who waits
            tell, outcome = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, tell, outcome)

    threading.Thread(target=run, name="batch", daemon=True).start()
    return await done


class _Reach:
    """For how long a server has been out of reach."""

    def __init__(self) -> None:
        self._since: float | None = None

    def failed(self, error: Exception) -> None:
        """Once more.

        Raises:
            PrerequisiteError: for PATIENCE now.
        """
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > PATIENCE:
            raise PrerequisiteError(
                f"the batch API gave no answer for {PATIENCE / 60:.0f} minutes: {error}; mend that and start the same "
                "command again, what is finished is kept"
            ) from error
