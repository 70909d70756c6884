"""Comparisons of groups of jobs. A GET: nothing is stored, and the same question may be asked again."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import StringConstraints

from api.answers import problems
from api.comparisons import MOST_GROUPS, compare, listed_group, named_group, refused
from api.dependencies import PrincipalOf, ServicesOf
from api.terms import Score
from ppo_jobs.schemas import Comparison

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])

_Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]
_Ids = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]{26}(,job_[0-9a-z]{26})*$", max_length=5000)]


@router.get("", responses=problems(404))
def compare_groups(
    services: ServicesOf,
    principal: PrincipalOf,
    group: Annotated[
        list[_Name], Query(default_factory=list, max_length=MOST_GROUPS, description="A group's name; may be repeated.")
    ],
    jobs: Annotated[
        list[_Ids],
        Query(
            default_factory=list,
            max_length=MOST_GROUPS,
            description="Ids of jobs that are a group, separated by commas; may be repeated.",
        ),
    ],
    score: Annotated[
        Score,
        Query(
            description="What is compared: `evaluation`, the mean return of the newest evaluation of a job's final "
            "checkpoint; or the last value of a metric."
        ),
    ] = "rollout/ep_rew_mean",
) -> Comparison:
    """Compare groups of jobs over their seeds: interquartile means, and the probability that one improves on another.

    A winner is named only where each group is complete and has seeds enough, and the interval of its probability of
    improvement over every other group is above 0.5; else `reason` says what is missing. Scores that were not earned
    under the same terms are refused with what differs: another task, or evaluations of which some cut episodes
    elsewhere or sampled actions.
    """
    if not 2 <= len(group) + len(jobs) <= MOST_GROUPS:
        raise refused("group", f"name two to {MOST_GROUPS} groups, with group=… or jobs=…")
    if len(set(group)) < len(group):
        raise refused("group", "a group cannot be compared with itself")
    with services.database.read() as session:
        named = [named_group(session, principal.tenant_id, name) for name in group]
        listed = [
            listed_group(session, principal.tenant_id, f"jobs {number}", ids.split(","))
            for number, ids in enumerate(jobs, 1)
        ]
        return compare(session, principal.tenant_id, named + listed, score)
