"""Running the application under uvicorn."""

import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.dependencies import Services
from api.protocol import Limits, allowed_by_the_system, protocol
from ppo_jobs.pulse import own_pulse, touch

KEEP_ALIVE_SECONDS = 5


class Server(uvicorn.Server):
    """A server that tells open streams of its end.

    uvicorn waits for connections to close before it ends the application's lifespan, so a stream that waited for that
    would hold up the end for ever.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        services: Services = app.state.services
        services.tailer.stop()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called by the event loop ten times a second: it turns."""
        if counter % 10 == 0 and (pulse := own_pulse()) is not None:
            touch(pulse)
        return await super().on_tick(counter)


def serve(app: FastAPI, *, host: str, port: int, graceful_seconds: int) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        graceful_seconds: how long requests and downloads that are under way may still take then.
    """
    # Threads that compute hand over this often to the one that answers; by default, each keeps it waiting for 5 ms.
    sys.setswitchinterval(0.001)
    limits = allowed_by_the_system(Limits())
    Server(configuration(app, limits, host=host, port=port, graceful_seconds=graceful_seconds)).run()


def configuration(
    app: FastAPI, limits: Limits, *, host: str = "127.0.0.1", port: int = 0, graceful_seconds: int = 5
) -> uvicorn.Config:
    """How uvicorn is to run `app`."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=graceful_seconds,
    )
