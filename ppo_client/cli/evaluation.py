"""How good policies are: on this machine, on the service, and groups of them beside each other."""

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppo_client.cli.local import play_here
from ppo_client.cli.output import (
    Column,
    ago,
    count,
    decimal,
    headline,
    percent,
    print_model,
    print_models,
    print_sheet,
    print_table,
    printable,
)
from ppo_client.cli.session import find_job, json_option, open_client
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from ppo_client.client import Client
    from ppo_client.evaluations import EvaluationHandle, Score
    from ppo_jobs.schemas import Comparison, Evaluation, EvaluationResult, GroupPair, GroupSummary

_SCORES = ("rollout/ep_rew_mean", "eval/mean_reward", "evaluation")
_JOB = re.compile(r"job_[0-9a-z]{26}")
_CHECKPOINT = re.compile(r"ckpt_[0-9a-z]{26}")

_COLUMNS = (
    Column("EVALUATION"),
    Column("STATUS"),
    Column("ENVIRONMENT", rank=2, shortest=12),
    Column("JOB", rank=4),
    Column("EPISODES", "right"),
    Column("MEAN", "right"),
    Column("95 %", rank=1),
    Column("IQM", "right", rank=3),
    Column("CREATED", "right", rank=5),
)
_GROUP_COLUMNS = (
    Column("GROUP", shortest=12),
    Column("SEEDS", "right"),
    Column("MEAN", "right"),
    Column("95 %", rank=2),
    Column("IQM", "right"),
    Column("95 %", rank=1),
)


@click.command()
@click.argument("target", metavar="DIR|JOB|CHECKPOINT")
@click.option("--episodes", type=click.IntRange(1), default=100, show_default=True, help="How many to play.")
@click.option("--seed", type=click.IntRange(0), help="Of the episodes; on the service one is drawn without it.")
@click.option("--stochastic", is_flag=True, help="Sample actions instead of taking the likeliest.")
@click.option("--checkpoint", type=click.Choice(["final", "best", "latest"]), help="Of the job; by default the final.")
@click.option("--max-episode-steps", type=click.IntRange(1), help="Truncate episodes there.")
@click.option(
    "--max-wall-seconds", type=click.FloatRange(0, min_open=True), help="Give up then; after an hour without."
)
@click.option("--detach", is_flag=True, help="Do not wait for the result.")
@click.option("--n-envs", type=click.IntRange(1), help="Environments side by side, on this machine.")
@json_option
def evaluate(
    *,
    target: str,
    episodes: int,
    seed: int | None,
    stochastic: bool,
    checkpoint: str | None,
    max_episode_steps: int | None,
    max_wall_seconds: float | None,
    detach: bool,
    n_envs: int | None,
    as_json: bool,
) -> None:
    """Play episodes with a policy, and tell how good it is.

    DIR is a downloaded policy, which plays on this machine; a JOB (or `last`) or a CHECKPOINT plays on the service.
    """
    remote: dict[str, object] = {"--checkpoint": checkpoint, "--detach": detach or None}
    remote |= {"--max-episode-steps": max_episode_steps, "--max-wall-seconds": max_wall_seconds}
    if not is_remote(target):
        _refuse(remote, "is for a job or a checkpoint on the service")
        options = ["--episodes", str(episodes), "--seed", str(seed or 0)]
        options += ["--stochastic"] * stochastic + ["--json"] * as_json
        play_here([target, *options, *(["--n-envs", str(n_envs)] if n_envs else [])])
        return
    _refuse({"--n-envs": n_envs}, "is for a policy on this machine")
    wish = {"n_episodes": episodes, "seed": seed, "deterministic": not stochastic, "checkpoint": checkpoint}
    from ppo_client.evaluations import budget

    limits = {"max_episode_steps": max_episode_steps, "budget": budget(max_wall_seconds)}
    with open_client() as client:
        handle = _requested(client, target, {**wish, **limits})
        if not detach:
            if not as_json:
                click.echo(f"{handle.id} is queued.", err=True)
            handle.wait()
    if as_json:
        print_model(handle.data)
    elif detach:
        click.echo(f"{handle.id} is queued; look at it with `ppo evaluations`.")
    else:
        click.echo(outcome_in_words(handle.data))
    if not detach and handle.status is not JobStatus.SUCCEEDED:
        click.get_current_context().exit(1)


def is_remote(target: str) -> bool:
    """Whether the service plays: an id or `last`, unless there is such a directory here."""
    is_name = target == "last" or _JOB.fullmatch(target) or _CHECKPOINT.fullmatch(target)
    return bool(is_name) and not Path(target).is_dir()


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"{name} {why}.")


def _requested(client: "Client", target: str, wish: dict[str, object]) -> "EvaluationHandle":
    from ppo_client.evaluations import wish_for

    if _CHECKPOINT.fullmatch(target):
        return client.evaluate(wish_for({**wish, "checkpoint_id": target}))
    return client.evaluate(wish_for({**wish, "job_id": find_job(client, target).id}))


def outcome_in_words(evaluation: "Evaluation") -> str:
    """One line, as the engine's own command prints it."""
    result, reason = evaluation.result, evaluation.status_reason
    if result is None:
        why = f": {printable(headline(reason.message))}" if reason else ""
        return f"{evaluation.id} {evaluation.status.value}{why}"
    mean = f"mean return {_with_interval(result.mean_reward, result.ci95)}"
    iqm = f"interquartile mean {_with_interval(result.iqm_reward, result.iqm_ci95)}"
    words = f"{evaluation.env_id}: {mean}, {iqm} over {result.n_episodes} episodes"
    return words + (f"; {result.n_cut} of them had no end and were cut" if result.n_cut else "")


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    return decimal(value) + (f" ({_interval(interval)})" if interval else "")


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{decimal(interval[0])} to {decimal(interval[1])}" if interval else ""


@click.command()
@click.option("--job", "job_id", metavar="JOB", help="Only of this job.")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only with this status.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@json_option
def evaluations(*, job_id: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List evaluations on the service, newest first."""
    with open_client() as client:
        wanted = find_job(client, job_id).id if job_id else None
        every = client.evaluations(job_id=wanted, status=status, page_size=min(100, limit))
        found = [handle.data for handle in islice(every, limit)]
    if as_json:
        print_models(found)
    elif found:
        print_table(_COLUMNS, [_row(evaluation) for evaluation in found])
    else:
        click.echo("There is no such evaluation; ask for one with `ppo evaluate JOB`.", err=True)


def _row(evaluation: "Evaluation") -> list[str]:
    result: EvaluationResult | None = evaluation.result
    progress = evaluation.progress
    return [
        evaluation.id,
        evaluation.status.value,
        evaluation.env_id,
        evaluation.job_id,
        f"{count(progress.episodes)} / {count(progress.n_episodes)}",
        decimal(result.mean_reward) if result else "",
        _interval(result.ci95) if result else "",
        decimal(result.iqm_reward) if result else "",
        ago(evaluation.created_at),
    ]


@click.command()
@click.argument("groups", metavar="GROUP GROUP...", nargs=-1)
@click.option("--score", type=click.Choice(_SCORES), default=_SCORES[0], show_default=True, help="What is compared.")
@json_option
def compare(*, groups: tuple[str, ...], score: "Score", as_json: bool) -> None:
    """Compare groups of jobs over their seeds.

    A GROUP is a name, or ids of jobs separated by commas. A winner is named only where the data carry it.
    """
    if len(groups) < 2:
        raise click.UsageError("Name two groups or more.")
    members = [group.split(",") if _is_list_of_jobs(group) else group for group in groups]
    with open_client() as client:
        comparison = client.compare(*members, score=score)
    if as_json:
        print_model(comparison)
    else:
        _print_comparison(comparison)


def _is_list_of_jobs(group: str) -> bool:
    return all(_JOB.fullmatch(part) for part in group.split(","))


def _print_comparison(comparison: "Comparison") -> None:
    print_table(_GROUP_COLUMNS, [_group_row(group) for group in comparison.groups])
    print_sheet({f"{pair.a} > {pair.b}": _chance(pair) for pair in comparison.pairs})
    print_sheet({"winner": comparison.winner or "none", "why": comparison.reason})


def _group_row(group: "GroupSummary") -> list[str]:
    mean, iqm = decimal(group.mean), decimal(group.iqm)
    return [group.name, count(group.n_seeds), mean, _interval(group.mean_ci95), iqm, _interval(group.iqm_ci95)]


def _chance(pair: "GroupPair") -> str | None:
    if pair.probability_of_improvement is None:
        return None
    interval = f" ({percent(pair.ci95[0])} to {percent(pair.ci95[1])})" if pair.ci95 else ""
    return f"{percent(pair.probability_of_improvement)}{interval}"
