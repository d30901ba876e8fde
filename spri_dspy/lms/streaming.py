"""What `dspy.streamify` needs of calls that are made without blocking: room for status messages in its stream.

It knows the stream that DSPy sends to; what is streamed is DSPy's own affair.
"""

from __future__ import annotations

import asyncio

import dspy


async def room_in_stream() -> None:
    """Wait until half of the stream of `dspy.streamify` is free; at once where nothing is streamed.

    DSPy 3.4 sends status messages by blocking the event loop. If the stream is full then (16 items that the consumer
    has not taken), the loop is blocked for good, the consumer included. Called behind the last token of an answer and
    before each call, it leaves room for the few messages in between.
    """
    stream = dspy.settings.send_stream
    while stream is not None:
        held = stream.statistics()
        if held.current_buffer_used <= held.max_buffer_size // 2 or not held.open_receive_streams:
            return
        await asyncio.sleep(0.001)
