"""Groups of jobs, compared over their seeds; a winner is named only where the data carry it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from api.errors import ProblemError
from api.terms import Score, Terms, difference, terms_of_evaluation, terms_of_training
from ppo_engine.spec import EvaluationPlan, TrainingSpec
from ppo_jobs.repository import evaluations, jobs
from ppo_jobs.schemas import Comparison, Evaluation, Fault, GroupPair, GroupSummary, Job, LeftOut, Seed
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from ppo_engine.aggregates import Interval

FEWEST_SEEDS = 6
"""Of each group, for there to be a winner. Between two groups that are equal, the interval of the probability of
improvement leaves out 0.5 in 21 % of cases with three seeds each, in 9 % with five, in 6 to 7 % with six or more."""
MOST_GROUPS = 8
MOST_JOBS = 100
"""Of a group."""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    jobs: Sequence[Job]


def named_group(session: Session, tenant_id: str, name: str) -> Group:
    """The jobs of a group.

    Raises:
        GroupNotFound: there are none.
        ProblemError: 422, there are too many.
    """
    members = jobs.group_members(session, tenant_id, name, limit=MOST_JOBS + 1)
    if len(members) > MOST_JOBS:
        raise refused("group", f"{name} has more than {MOST_JOBS} jobs; name some of them with jobs=…")
    return Group(name, members)


def listed_group(session: Session, tenant_id: str, name: str, ids: Sequence[str]) -> Group:
    """Jobs that were named one by one.

    Raises:
        JobNotFound: there is none of an id, or it is another tenant's.
        ProblemError: 422, there are too many.
    """
    if len(ids) > MOST_JOBS:
        raise refused("jobs", f"a group has {MOST_JOBS} jobs at most")
    return Group(name, [jobs.get_job(session, tenant_id, id) for id in dict.fromkeys(ids)])


def compare(session: Session, tenant_id: str, groups: Sequence[Group], score: Score) -> Comparison:
    """
    Raises:
        ProblemError: 422, they are not disjoint, or their scores were not earned under the same terms.
    """
    # Imports scipy.stats, which takes a second that only this endpoint needs.
    from ppo_engine.aggregates import probability_bootstrap, probability_of_improvement

    _require_disjoint(groups)
    members = [job for group in groups for job in group.jobs]
    specs = {job.id: TrainingSpec.model_validate(job.resolved_spec) for job in members}
    _require_same_terms({id: terms_of_training(spec, score) for id, spec in specs.items()}, score)
    played = _evaluations_of(session, tenant_id, members) if score == "evaluation" else {}
    summaries = [_summary(group, score, played) for group in groups]
    # Evaluations that do not count may have other terms.
    counted = [played[seed.job_id] for summary in summaries for seed in summary.seeds if seed.job_id in played]
    _require_same_terms({f"{found.job_id} ({found.id})": _terms_of(found) for found in counted}, score)
    pairs = []
    for a, b in combinations(summaries, 2):
        ours, theirs = _scores(a), _scores(b)
        both = bool(ours and theirs)
        pairs.append(
            GroupPair(
                a=a.name,
                b=b.name,
                probability_of_improvement=probability_of_improvement(ours, theirs) if both else None,
                ci95=probability_bootstrap(ours, theirs) if both else None,
            )
        )
    winner, reason = judge(summaries, pairs)
    env_id = specs[members[0].id].env.id
    return Comparison(score=score, env_id=env_id, groups=summaries, pairs=pairs, winner=winner, reason=reason)


def judge(groups: Sequence[GroupSummary], pairs: Sequence[GroupPair]) -> tuple[str | None, str]:
    """The winner, if the data carry one, and a sentence that says why."""
    for group in groups:
        missing = [left for left in group.left_out if not left.superseded]
        if missing:
            return None, f"{group.name} is not complete: {missing[0].job_id} {missing[0].reason}{_more(missing)}"
    for group in groups:
        if group.n_seeds < FEWEST_SEEDS:
            seeds = "seed" if group.n_seeds == 1 else "seeds"
            return (
                None,
                f"{group.name} has {group.n_seeds} {seeds}; to name a winner takes {FEWEST_SEEDS} of each group",
            )
    for group in groups:
        against = list(_against(group.name, pairs))
        if all(interval[0] > 0.5 for _, _, interval in against):
            told = ", ".join(_in_words(other, chance, interval) for other, chance, interval in against)
            return group.name, f"a seed of {group.name} does better than {told}"
    best = max(groups, key=lambda group: sum(chance for _, chance, _ in _against(group.name, pairs)))
    unclear = next(found for found in _against(best.name, pairs) if found[2][0] <= 0.5)
    return None, f"no group is surely the best: a seed of {best.name} does better than {_in_words(*unclear)}"


def refused(parameter: str, message: str) -> ProblemError:
    return ProblemError(
        422, "invalid_request", f"{parameter}: {message}", errors=[Fault(pointer=parameter, message=message)]
    )


def _against(name: str, pairs: Sequence[GroupPair]) -> "Iterator[tuple[str, float, Interval]]":
    """Every other group, the probability of being better than it, and its interval."""
    for pair in pairs:
        assert pair.ci95 is not None and pair.probability_of_improvement is not None, "both have seeds enough"
        if pair.a == name:
            yield pair.b, pair.probability_of_improvement, pair.ci95
        elif pair.b == name:
            yield pair.a, 1 - pair.probability_of_improvement, (1 - pair.ci95[1], 1 - pair.ci95[0])


def _in_words(other: str, chance: float, interval: "Interval") -> str:
    return f"one of {other} with probability {chance:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _more(left_out: Sequence[LeftOut]) -> str:
    return f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""


def _require_disjoint(groups: Sequence[Group]) -> None:
    owners: dict[str, str] = {}
    for group in groups:
        for job in group.jobs:
            if job.id in owners:
                raise refused("group", f"job {job.id} is in {owners[job.id]} and in {group.name}")
            owners[job.id] = group.name


def _require_same_terms(terms: Mapping[str, Terms], score: Score) -> None:
    for (first, ours), (second, theirs) in pairwise(terms.items()):
        if differs := difference(ours, theirs):
            raise refused("group", f"{first} and {second} cannot be compared by {score}: {differs}")


def _terms_of(evaluation: Evaluation) -> Terms:
    return terms_of_evaluation(EvaluationPlan.model_validate(evaluation.resolved_spec))


def _summary(group: Group, score: Score, played: Mapping[str, Evaluation]) -> GroupSummary:
    from ppo_engine.aggregates import interquartile_mean, interquartile_mean_bootstrap, mean_bootstrap

    scores = _scores_of(group.jobs, score, played)
    newest = {job.resolved_spec["seed"]: job.id for job in sorted(group.jobs, key=lambda job: job.id)}
    seeds, left_out = [], []
    for job in group.jobs:
        seed = job.resolved_spec["seed"]
        if newest[seed] != job.id:
            reason = f"is older than {newest[seed]}, which has the same seed"
            left_out.append(LeftOut(job_id=job.id, reason=reason, superseded=True))
        elif job.status != JobStatus.SUCCEEDED:
            left_out.append(LeftOut(job_id=job.id, reason=f"is {job.status}", superseded=False))
        elif job.id not in scores:
            left_out.append(LeftOut(job_id=job.id, reason=_lacks(score), superseded=False))
        else:
            assert isinstance(seed, int), "the spec was resolved"
            seeds.append(Seed(job_id=job.id, seed=seed, score=scores[job.id]))
    values = [seed.score for seed in seeds]
    return GroupSummary(
        name=group.name,
        n_seeds=len(seeds),
        mean=sum(values) / len(values) if values else None,
        mean_ci95=mean_bootstrap(values),
        iqm=interquartile_mean(values) if values else None,
        iqm_ci95=interquartile_mean_bootstrap(values),
        seeds=seeds,
        left_out=left_out,
    )


def _evaluations_of(session: Session, tenant_id: str, members: Sequence[Job]) -> dict[str, Evaluation]:
    """By job, the newest evaluation of its final checkpoint that succeeded."""
    finals = [job.final_checkpoint_id for job in members if job.final_checkpoint_id is not None]
    found = evaluations.newest_succeeded(session, tenant_id, finals)
    return {evaluation.job_id: evaluation for evaluation in found}


def _scores_of(members: Sequence[Job], score: Score, played: Mapping[str, Evaluation]) -> dict[str, float]:
    if score != "evaluation":
        return {job.id: job.latest_metrics[score] for job in members if score in job.latest_metrics}
    return {id: evaluation.result.mean_reward for id, evaluation in played.items() if evaluation.result is not None}


def _lacks(score: Score) -> str:
    if score == "evaluation":
        return "has no evaluation of its final checkpoint that succeeded"
    return f"has reported no {score}"


def _scores(group: GroupSummary) -> list[float]:
    return [seed.score for seed in group.seeds]
