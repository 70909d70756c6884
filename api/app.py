"""The application: its parts, made once and passed on, and the order in which a request goes through them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import documentation, errors
from api.dependencies import Services
from api.keys import KeyWatch
from api.middleware import BodyLimit, RequestBoundary
from api.routes import (
    catalogue,
    checkpoints,
    comparisons,
    evaluations,
    events,
    files,
    health,
    jobs,
    logs,
    metrics,
    workers,
)
from api.streams import MAX_PER_TENANT, Streams
from api.tailer import Tailer
from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.database import open_database
from ppo_jobs.queue import celery_app
from ppo_jobs.settings import Settings


def create_app(settings: Settings, *, max_streams_per_tenant: int = MAX_PER_TENANT) -> FastAPI:
    """The API of one deployment; it connects to nothing before the first request."""
    app = FastAPI(
        title="ppo-service",
        version=version("ppo-service"),
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=documentation.operation_id,
    )
    database = open_database(settings.database_url, durable=True)
    tailer = Tailer(database)
    app.state.services = Services(
        database=database,
        artifacts=open_artifacts(settings.artifacts_url),
        queue=celery_app(settings),
        tailer=tailer,
        streams=Streams(tailer, max_per_tenant=max_streams_per_tenant),
        keys=KeyWatch(database),
    )
    for routes in (
        jobs,
        metrics,
        events,
        logs,
        checkpoints,
        files,
        evaluations,
        comparisons,
        catalogue,
        workers,
        health,
    ):
        app.include_router(routes.router)
    errors.install(app)
    documentation.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestBoundary)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    polling = asyncio.create_task(services.tailer.run())
    watching = asyncio.create_task(services.keys.run())
    yield
    watching.cancel()
    services.tailer.stop()
    await polling
    services.queue.close()
    services.database.dispose()
