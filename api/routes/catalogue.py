"""What can be trained, and the hyperparameters that are known to train it well."""

from fastapi import APIRouter

from api.answers import problems
from api.dependencies import PrincipalOf, ServicesOf
from api.errors import ProblemError
from api.pages import whole_page
from ppo_engine.presets import family_presets, preset_of, presets
from ppo_jobs.repository import workers
from ppo_jobs.schemas import Environment, Page, Preset

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/environments", responses=problems())
def list_environments(services: ServicesOf, principal: PrincipalOf) -> Page[Environment]:
    """The environments that the workers can train on, with their spaces and the schema of their arguments."""
    with services.database.read() as session:
        described = workers.environments(session)
    found = [Environment(**one.model_dump(), preset=preset_of(one.id) is not None) for one in described]
    return whole_page(found, [one.id for one in found])


# Of any number of segments, since an id such as ALE/Breakout-v5 has two.
@router.get("/environments/{id:path}", responses=problems(404))
def read_environment(id: str, services: ServicesOf, principal: PrincipalOf) -> Environment:
    """One environment: its spaces, the schema of its arguments, its limit, and whether a job on it resumes exactly."""
    with services.database.read() as session:
        described = workers.environment(session, id)
    if described is None:
        raise ProblemError(404, "environment_not_found", f"no worker knows an environment {id!r}")
    return Environment(**described.model_dump(), preset=preset_of(id) is not None)


@router.get("/presets", responses=problems())
def list_presets(principal: PrincipalOf) -> Page[Preset]:
    """Tuned hyperparameters per environment or family of them, and where the numbers come from."""
    known = (*presets().values(), *family_presets())
    found = [Preset(env_id=one.env_id, spec=dict(one.spec), source=one.source) for one in known]
    return whole_page(found, [one.env_id for one in found])
