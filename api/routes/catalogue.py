"""What can be trained, and the hyperparameters that are known to train it well."""

from fastapi import APIRouter

from api.answers import problems
from api.dependencies import PrincipalOf, ServicesOf
from api.pages import whole_page
from ppo_engine.presets import presets
from ppo_jobs.repository import workers
from ppo_jobs.schemas import Environment, Page, Preset

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/environments", responses=problems())
def list_environments(services: ServicesOf, principal: PrincipalOf) -> Page[Environment]:
    """The environments that the workers can train on, with their spaces and the schema of their arguments."""
    tuned = presets()
    with services.database.read() as session:
        described = workers.environments(session)
    found = [Environment(**one.model_dump(), preset=one.id in tuned) for one in described]
    return whole_page(found, [one.id for one in found])


@router.get("/presets", responses=problems())
def list_presets(principal: PrincipalOf) -> Page[Preset]:
    """Tuned hyperparameters per environment, and where the numbers come from."""
    found = [Preset(env_id=one.env_id, spec=dict(one.spec), source=one.source) for one in presets().values()]
    return whole_page(found, [one.env_id for one in found])
