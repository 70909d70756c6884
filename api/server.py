"""Running the application under uvicorn."""

import resource
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.dependencies import Services

KEEP_ALIVE_SECONDS = 5
MAX_CONNECTIONS = 4000


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


def serve(app: FastAPI, *, host: str, port: int, graceful_seconds: int) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        graceful_seconds: how long requests and downloads that are under way may still take then.
    """
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=graceful_seconds,
    )
    Server(config).run()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * MAX_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
