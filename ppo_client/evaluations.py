"""Evaluations on the service, and comparisons of groups."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ppo_client.handles import Handle
from ppo_client.paging import segment
from ppo_client.transport import Transport
from ppo_jobs.schemas import Comparison, Evaluation, EvaluationRequest

Score = Literal["evaluation", "eval/mean_reward", "rollout/ep_rew_mean"]


class EvaluationHandle(Handle[Evaluation]):
    """An evaluation and what can be done with it. `data` is what was last read of it; `refresh` reads it again."""

    def __init__(self, transport: Transport, data: Evaluation) -> None:
        super().__init__(transport, f"/v1/evaluations/{segment(data.id)}", data)


def request_evaluation(
    transport: Transport, wish: EvaluationRequest, *, idempotency_key: str | None = None
) -> EvaluationHandle:
    """
    Raises:
        NotFound: there is no such job or checkpoint.
        Conflict: the job has no such checkpoint yet.
        InvalidRequest: the wish makes no sense; `errors` has one entry per fault.
    """
    body = wish.model_dump(mode="json", exclude_unset=True)
    posted = transport.post(Evaluation, "/v1/evaluations", body=body, idempotency_key=idempotency_key)
    return EvaluationHandle(transport, posted)


def budget(max_wall_seconds: float | None) -> dict[str, float] | None:
    """The budget of a wish; None leaves it to the service."""
    return None if max_wall_seconds is None else {"max_wall_seconds": max_wall_seconds}


def wish_for(given: Mapping[str, object]) -> EvaluationRequest:
    """The wish with the settings that are not None.

    Raises:
        InvalidRequest: one of them has a wrong type or value; nothing was sent.
    """
    from pydantic import ValidationError

    from ppo_client.errors import FieldFault, InvalidRequest

    try:
        return EvaluationRequest.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = [FieldFault(f"/{entry['loc'][0]}", str(entry["msg"])) for entry in error.errors(include_url=False)]
        detail = "the evaluation cannot be asked for"
        raise InvalidRequest(detail, status=422, code="invalid_request", errors=faults) from None


def compare_groups(transport: Transport, groups: Sequence[str | Sequence[str]], score: Score) -> Comparison:
    """
    Args:
        groups: names, or lists of ids of jobs; the service puts the names first.
    """
    names = [group for group in groups if isinstance(group, str)]
    lists = [",".join(group) for group in groups if not isinstance(group, str)]
    params: dict[str, str | Sequence[str]] = {"group": names, "jobs": lists, "score": score}
    return transport.get(Comparison, "/v1/comparisons", params=params)
