"""Giving up the batches of a run that are at work at their provider.

What a provider was never asked for is dropped; what is at work is cancelled, and what it did by then is paid and is
taken when the run goes on; what has ended is left as it is. The provider is looked at each time, so doing it again, or
after a kill, does what is left to do. It knows batches and LMs; it knows no run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from spri_dspy.errors import PrerequisiteError, UsageError
from spri_dspy.lms.batches.api import BatchAPI, Busy, NotYet, Status
from spri_dspy.lms.batches.carrier import beside, find
from spri_dspy.lms.batches.groups import Group, group_of_batch, request_of
from spri_dspy.lms.batches.settings import BatchSettings
from spri_dspy.lms.batches.store import Batch, BatchStore


class Outcome(NamedTuple):
    """What became of one batch.

    Attributes:
        batch: as the run has it.
        state: "cancelled", "ended" (before that), "dropped" (it was never begun), or "kept" (it could not be
            cancelled).
        said: the same for people, with what follows from it.
        exit_code: of what kept it, 0 if nothing did.
    """

    batch: Batch
    state: str
    said: str
    exit_code: int = 0


def at_work(store: BatchStore) -> list[Batch]:
    """The batches of which results may still come; those with results on this machine are none."""
    return [batch for batch in store.batches if batch.ended is None and not batch.stored]


async def cancel_batches(
    store: BatchStore, lms: Iterable[Any], settings: BatchSettings | None
) -> AsyncIterator[Outcome]:
    """Cancel all that is at work, one batch after the other.

    Args:
        store: of the run, whose lock is held.
        lms: with the addresses and keys that the batches were sent with; never those that the run's files name.
        settings: of `--batch`, for batches that are not at an LM's own address.
    """
    asked = [(lm, await request_of(lm)) for lm in lms]
    for batch in at_work(store):
        found = (group_of_batch(batch, lm, request, settings) for lm, request in asked if request is not None)
        group = next((each for each in found if each is not None), None)
        try:
            yield _unknown(batch) if group is None else await _cancel(batch, group, store)
        except (Busy, OSError, PrerequisiteError) as error:
            mend = "" if isinstance(error, PrerequisiteError) else "; the same command tries again"
            yield Outcome(batch, "kept", f"not cancelled: {error}{mend}", PrerequisiteError.exit_code)


def _unknown(batch: Batch) -> Outcome:
    at = "" if batch.url is None else f" and --batch {batch.url}"
    how = f"name that LM as the run did, by --lm base={batch.model} with its options{at}"
    return Outcome(
        batch,
        "kept",
        f"not cancelled: it was sent for another LM, address or key; {how}",
        UsageError.exit_code,
    )


async def _cancel(batch: Batch, group: Group, store: BatchStore) -> Outcome:
    """Cancel one batch.

    Raises:
        Busy: not now.
        PrerequisiteError: it is refused.
    """
    if batch.batch_id is None and batch.sent is not None:
        try:
            batch.batch_id = await find(batch, group.api, store)
        except NotYet as error:
            raise PrerequisiteError(
                f"whether it was created before the run was stopped {group.api.base} does not tell yet ({error}); look "
                "for it at the provider, or try again later"
            ) from None
    if batch.batch_id is None:
        store.drop(batch)
        left = "" if batch.file_id is None else f"; its uploaded file {batch.file_id} stays at the provider"
        return Outcome(batch, "dropped", f"was never created, so nothing is to be cancelled{left}")
    store.save(batch)
    status = await beside(group.api.status, batch.batch_id)
    if not group.api.is_ours(status, batch.tag, batch.file_id, batch.n):
        raise PrerequisiteError(f"{batch.batch_id} is another batch at {group.api.base}: it is left alone")
    if not status.ended and not status.cancelled:
        status = await _ask(group.api, batch.batch_id)
    if status.failed is not None:
        if status.file_id is not None:
            await beside(group.api.delete, status.file_id)
        store.drop(batch)
        return Outcome(batch, "dropped", f"had failed, so nothing is to be cancelled: {status.failed}")
    done = f"{status.done:,} of {batch.n:,} requests"
    if not status.cancelled:
        return Outcome(
            batch, "ended", f"had ended, with {done} done: the run takes the answers when it goes on"
        )
    by_now = "" if status.ended else " by now"
    return Outcome(
        batch,
        "cancelled",
        f"cancelled; {done} were done{by_now}: these are paid, and the run takes the answers",
    )


async def _ask(api: BatchAPI, batch_id: str) -> Status:
    """Cancel a batch; how far it is then. That it ended meanwhile is no error."""
    try:
        await beside(api.cancel, batch_id)
    except (Busy, PrerequisiteError):
        status = await beside(api.status, batch_id)
        if not status.ended:
            raise
        return status
    return await beside(api.status, batch_id)
