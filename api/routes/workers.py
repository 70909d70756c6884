"""Who trains."""

from fastapi import APIRouter

from api.answers import problems
from api.dependencies import PrincipalOf, ServicesOf
from api.pages import whole_page
from ppo_jobs.repository import workers
from ppo_jobs.schemas import Page, Worker

router = APIRouter(prefix="/v1", tags=["workers"])


@router.get("/workers", responses=problems())
def list_workers(services: ServicesOf, principal: PrincipalOf) -> Page[Worker]:
    """The workers that are or lately were there, with their slots and devices."""
    with services.database.read() as session:
        found = workers.list_workers(session)
    return whole_page(found, [worker.id for worker in found])
