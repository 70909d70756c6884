"""Whether the process lives, and whether it can do its work. Neither needs a key."""

from fastapi import APIRouter, Request, Response

from api.dependencies import Services, ServicesOf
from ppo_jobs.database import is_migrated, prove_writable
from ppo_jobs.errors import DatabaseFull, DatabaseReadOnly, DatabaseUnavailable
from ppo_jobs.queue import broker_answers
from ppo_jobs.repository import workers
from ppo_jobs.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def read_liveness(request: Request) -> Health:
    """The process answers."""
    return Health(status="ok", version=request.app.version)


@router.get("/readyz", responses={503: {"model": Health, "description": "It cannot answer other requests."}})
def read_readiness(request: Request, response: Response, services: ServicesOf) -> Health:
    """A job that is posted now is accepted: the database takes writes, and it is known what can be trained.

    The broker is shown too, but jobs are taken without it.
    """
    checks = _database_checks(services)
    is_ready = all(state == "ok" for state in checks.values())
    checks["broker"] = "ok" if broker_answers(services.queue) else "unreachable"
    if not is_ready:
        response.status_code = 503
    return Health(status="ok" if is_ready else "unavailable", version=request.app.version, checks=checks)


def _database_checks(services: Services) -> dict[str, str]:
    try:
        with services.database.read() as session:
            if not is_migrated(session):
                return {"database": "ok", "migrations": "pending"}
            if not workers.has_environments(session):
                return {"database": "ok", "migrations": "ok", "catalogue": "no worker has registered yet"}
        with services.database.write() as session:
            prove_writable(session)
    except DatabaseFull:
        return {"database": "full"}
    except DatabaseReadOnly:
        return {"database": "read_only"}
    except DatabaseUnavailable:
        return {"database": "unreachable"}
    return {"database": "ok", "migrations": "ok", "catalogue": "ok"}
