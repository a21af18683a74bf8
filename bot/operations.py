"""The local port of whoever looks after the machine: /metrics, /healthz, /readyz.

aiohttp serves it, which discord.py brings along anyway: on the bot's own loop, so that an answer to
/healthz shows that the loop turns, and /readyz can ask the store. prometheus_client's own server is
a thread, which goes on answering when the loop has stopped.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from bot.config import OperationsSettings
from bot.metrics import CONTENT_TYPE, Metrics
from bot.readiness import Readiness
from data.config import SettingsError


@asynccontextmanager
async def listening(
    settings: OperationsSettings, metrics: Metrics, readiness: Readiness
) -> AsyncGenerator[None]:
    """Answers at the port meanwhile. Raises SettingsError where it is taken."""
    runner = web.AppRunner(_application(metrics, readiness), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.listen, settings.port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            where = f"{settings.listen}:{settings.port}"
            number = error.errno or 0  # a name that nobody knows has a number of its own kind
            why = os.strerror(number) if number > 0 else error.strerror
            raise SettingsError(
                f"[operations] port = {settings.port}: {where} cannot be listened at "
                f"({why}); choose another port, or 0 for none"
            ) from error
        with metrics.counting_errors():
            yield
    finally:
        await runner.cleanup()


def _application(metrics: Metrics, readiness: Readiness) -> web.Application:
    async def page(_: web.Request) -> web.Response:
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        parts = await readiness.parts()
        well = all(state == "ok" for state in parts.values())
        return web.json_response(parts, status=200 if well else 503)

    application = web.Application()
    application.add_routes(
        [web.get("/metrics", page), web.get("/healthz", health), web.get("/readyz", ready)]
    )
    return application
