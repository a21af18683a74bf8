"""Commands and presses: acknowledged at once, written down, and answered though a session ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable

import discord

from bot.platforms.base import Incoming, SendError
from bot.platforms.discord_interactions import Pending
from bot.platforms.discord_receiving import Left, Receiver
from bot.platforms.discord_sending import Sender

log = logging.getLogger(__name__)

_AT_ANY_RATE = ("/feedback", "/privacy")
"""What counts though nobody can be answered any more."""
_TAKEN = 1000


class Asking:
    """Takes up what is asked by interactions, in one session with Discord."""

    def __init__(self, client: discord.Client, receiver: Receiver, sender: Sender) -> None:
        self._client = client
        self._receiver = receiver
        self._sender = sender
        self._taken: deque[int] = deque(maxlen=_TAKEN)
        self._taking_up: set[asyncio.Task[None]] = set()

    async def take(
        self, interaction: discord.Interaction, incoming: Incoming, pending: Pending
    ) -> None:
        """Acknowledges at once, and has it dealt with."""
        if interaction.id in self._taken:  # a session that was resumed may repeat it
            return
        self._taken.append(interaction.id)
        # Side by side: Discord waits three seconds, which a busy disk must not cost.
        is_new, refusal = await asyncio.gather(
            self._receiver.keep(interaction.id, incoming, pending.ticket), _acknowledge(pending)
        )
        if is_new is not False:
            number = interaction.id if is_new else None
            await self._go_on(incoming, pending, number, refusal)

    def take_up(self, left: Iterable[Left]) -> None:
        """What an earlier session, or an earlier process, did not come to the end of."""
        for one in left:
            task = asyncio.create_task(self._again(one))
            self._taking_up.add(task)
            task.add_done_callback(self._taking_up.discard)

    async def end(self) -> None:
        """Leaves what was not taken up yet to the next start."""
        late = list(self._taking_up)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _again(self, left: Left) -> None:
        try:
            pending = Pending.of(self._client, left.number, left.ticket)
        except LookupError:  # another version of the program wrote it
            log.error("interaction %d was left in a form that is not known", left.number)
            await self._receiver.done(left.number)
            return
        over = SendError("it was asked too long ago") if pending.is_over else None
        refusal = over or await _acknowledge(pending)
        await self._go_on(left.incoming, pending, left.number, refusal)

    async def _go_on(
        self, incoming: Incoming, pending: Pending, number: int | None, refusal: SendError | None
    ) -> None:
        if refusal:
            command = incoming.text.split(None, 1)[0]
            log.info("%s could not be acknowledged: %s", command, refusal)
            if not command.startswith(_AT_ANY_RATE):
                await self._receiver.done(number)
                return
        else:
            self._sender.expect(incoming, pending)
        self._receiver.talk(incoming, number)


async def _acknowledge(pending: Pending) -> SendError | None:
    try:
        await pending.acknowledge()
    except SendError as refusal:
        return refusal
    return None
