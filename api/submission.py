"""From what a user sent to what will be trained."""

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import jsonschema_rs
from sqlalchemy.orm import Session

from api.errors import ProblemError
from api.pointers import escape
from ppo_engine.presets import resolve
from ppo_engine.spec import EnvironmentDescription, InvalidSpec, SpecFault, TrainingSpec
from ppo_jobs.repository import workers

CATALOGUE_RETRY_SECONDS = 2
UNKNOWN = "unknown argument"


def resolved_spec(session: Session, spec: TrainingSpec) -> TrainingSpec:
    """The spec with every default filled in and its seed drawn, checked against the environment it names.

    Raises:
        InvalidSpec: it cannot be trained; every fault that could be found has its entry.
        ProblemError: 503, no worker has told yet what it can train, or one is still finding that out.
    """
    # One entry of the catalogue, not all: reading some 300 of them took nine tenths of a submission's time.
    environment = workers.environment(session, spec.env.id)
    if environment is None or environment.plugin is not None:
        # Of a plugin it may be what an earlier version was like.
        plugin = environment.plugin if environment is not None else None
        _require_described(spec.env.id, workers.pending_origins(session, spec.env.id, plugin))
    if environment is None:
        raise _unknown(spec.env.id, workers.environment_ids(session))
    faults = list(_kwargs_faults(spec, environment))
    try:
        resolved = resolve(spec, environment, draw_seed=True)
    except InvalidSpec as error:
        raise InvalidSpec(faults + error.faults) from None
    if faults:
        raise InvalidSpec(faults)
    return resolved


def _require_described(env_id: str, origins: Sequence[str]) -> None:
    if origins:
        detail = f"{env_id} is not known yet: what {' and '.join(origins)} offers is being described"
        headers = {"Retry-After": str(CATALOGUE_RETRY_SECONDS)}
        raise ProblemError(503, "environments_pending", detail, headers=headers)


def _unknown(env_id: str, known: Sequence[str]) -> Exception:
    if not known:
        detail = "no worker has registered yet, so no environment is known"
        return ProblemError(503, "catalogue_empty", detail, headers={"Retry-After": str(CATALOGUE_RETRY_SECONDS)})
    lowered = {name.lower(): name for name in known}
    near = [lowered[match] for match in get_close_matches(env_id.lower(), lowered, n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(near)}?" if near else "; GET /v1/environments lists those that are"
    return InvalidSpec([SpecFault("/env/id", f"{env_id} is not an environment of this service{hint}")])


def _kwargs_faults(spec: TrainingSpec, environment: EnvironmentDescription) -> Iterator[SpecFault]:
    validator = jsonschema_rs.validator_for(json.dumps(environment.kwargs_schema), mask="this value")
    for error in validator.iter_errors(spec.env.kwargs):
        pointer = "/env/kwargs" + "".join(f"/{escape(part)}" for part in error.instance_path)
        unknown = getattr(error.kind, "unexpected", None)
        if unknown is not None:
            yield from (SpecFault(f"{pointer}/{escape(name)}", _refusal(name, environment)) for name in unknown)
        elif pointer != "/env/kwargs":
            # What is missing is found when the spec is resolved.
            yield SpecFault(pointer, error.message)


def _refusal(argument: str, environment: EnvironmentDescription) -> str:
    unsupported = environment.kwargs_schema.get("unsupported")
    return str(unsupported.get(argument, UNKNOWN)) if isinstance(unsupported, dict) else UNKNOWN
