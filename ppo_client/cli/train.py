"""Submitting jobs, one or one per seed, and staying with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import click

from ppo_client.cli.files import chosen_checkpoint, fetch
from ppo_client.cli.output import (
    Column,
    count,
    decimal,
    duration,
    print_json,
    print_model,
    print_models,
    print_table,
    printable,
)
from ppo_client.cli.session import json_option, open_client
from ppo_client.cli.watch import exit_code_of, result_in_words, watch_jobs
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from ppo_client.client import Client
    from ppo_client.jobs import JobHandle
    from ppo_jobs.schemas import Job

LONGEST_GROUP, LONGEST_NAME = 100, 200
"""Characters, as the spec takes them."""
_SUMMARY_COLUMNS = (
    Column("SEED", "right"),
    Column("JOB"),
    Column("STATUS"),
    Column("TIMESTEPS", "right", rank=2),
    Column("RETURN", "right"),
    Column("TIME", "right", rank=1),
)


@click.command()
@click.argument("environment", metavar="ENV", required=False)
@click.option("--set", "settings", metavar="PATH=VALUE", multiple=True, help="Set a field of the spec: ppo.gamma=0.98.")
@click.option("--spec", "spec_file", type=click.File("rb"), help="Start from this JSON file; - is stdin.")
@click.option("--timesteps", type=int, help="Short for --set ppo.total_timesteps=….")
@click.option("--seed", type=int, help="The seed, or the first one with --seeds; drawn, or 0, by default.")
@click.option("--seeds", type=click.IntRange(1, 1000), help="Train so many jobs, as a group, each with its own seed.")
@click.option("--name", help="A name to find the job by.")
@click.option("--group", help="A name for jobs that belong together.")
@click.option("--detach", is_flag=True, help="Submit, print the id, and leave.")
@click.option("--download", "directory", type=click.Path(path_type=Path), help="Download the policy to DIR at the end.")
@json_option
def train(
    *,
    environment: str | None,
    settings: tuple[str, ...],
    spec_file: BinaryIO | None,
    detach: bool,
    directory: Path | None,
    as_json: bool,
    **options: str | int | None,
) -> None:
    """Train a policy for ENV, and watch it learn.

    Ctrl-C detaches, and the job goes on. Only the environment is needed: tuned
    hyperparameters are filled in, and what you set wins.

    \b
    ppo train CartPole-v1
    ppo train LunarLander-v3 --set ppo.gamma=0.995 --set 'env.kwargs={"gravity": -8}'
    ppo train Pendulum-v1 --seeds 5 --download policies
    """
    if detach and directory:
        raise click.UsageError("--download waits for the end, and --detach does not.")
    seeds = options.pop("seeds")
    document = _document(environment, settings, spec_file, options)
    with open_client() as client:
        handles = _submit(client, document, seeds=int(seeds) if seeds else None)
        if detach:
            _print_submitted(handles, as_json=as_json)
            return
        if not as_json:
            _announce(handles)
        watch_jobs(handles, is_silent=as_json)
        folders = _download(handles, directory, is_silent=as_json) if directory else {}
    _print_result(handles, folders, as_json=as_json)
    click.get_current_context().exit(exit_code_of(handles))


def _document(
    environment: str | None, settings: Sequence[str], spec_file: BinaryIO | None, options: dict[str, str | int | None]
) -> dict[str, object]:
    """The spec that the command line describes: the file's, then the options on top, then `--set`.

    Raises:
        click.UsageError: no environment is named, or the file holds no JSON object.
        InvalidRequest: a setting leads to no field.
    """
    from ppo_client.specs import with_settings

    document = _read(spec_file) if spec_file else {}
    env = document.get("env", {})
    if environment:
        document["env"] = {**(env if isinstance(env, dict) else {}), "id": environment}
    elif not env and not any(setting.startswith("env.id=") for setting in settings):
        raise click.UsageError("Name an environment, such as CartPole-v1; `ppo environments` lists them.")
    timesteps = options.pop("timesteps")
    document |= {name: value for name, value in options.items() if value is not None}
    shortcut = [] if timesteps is None else [f"ppo.total_timesteps={timesteps}"]
    return with_settings(document, [*shortcut, *settings])


def _read(spec_file: BinaryIO) -> dict[str, object]:
    try:
        document = json.load(spec_file)
    except ValueError as error:
        raise click.UsageError(f"The spec file holds no JSON: {error}.") from None
    if not isinstance(document, dict):
        raise click.UsageError("The spec file holds no JSON object.")
    return document


def _submit(client: "Client", document: dict[str, object], *, seeds: int | None) -> "list[JobHandle]":
    """One job, or one per seed; those already submitted are named when a later one is refused."""
    from ppo_client.errors import ClientError

    handles: list[JobHandle] = []
    specs = [document] if seeds is None else _per_seed(document, seeds)
    try:
        handles.extend(map(client.submit, specs))
    except (ClientError, KeyboardInterrupt):
        if handles:
            ids = " ".join(handle.id for handle in handles)
            click.echo(f"{len(handles)} of {len(specs)} jobs were submitted, and go on: {ids}", err=True)
        raise
    return handles


def _per_seed(document: dict[str, object], seeds: int) -> list[dict[str, object]]:
    """The same spec once per seed, as a group with a name of its own."""
    from ppo_client.specs import training_spec

    spec = training_spec(document)
    first = spec.seed or 0
    group = spec.group or _with_suffix(spec.name or spec.env.id, f"-{uuid4().hex[:6]}", longest=LONGEST_GROUP)
    stem = f"{spec.name}-" if spec.name else ""
    return [
        {**document, "seed": seed, "group": group, "name": _with_suffix(stem, f"seed-{seed}", longest=LONGEST_NAME)}
        for seed in range(first, first + seeds)
    ]


def _with_suffix(stem: str, suffix: str, *, longest: int) -> str:
    """The suffix is what tells one from another: where both do not fit, the stem is cut."""
    return stem[: longest - len(suffix)] + suffix


def _print_submitted(handles: "Sequence[JobHandle]", *, as_json: bool) -> None:
    jobs = [handle.data for handle in handles]
    if as_json:
        print_model(jobs[0]) if len(jobs) == 1 else print_models(jobs)
        return
    for job in jobs:
        click.echo(job.id)
    target = jobs[0].id if len(jobs) == 1 else f"--group {printable(jobs[0].group or '')}"
    click.echo(f"Look on: ppo watch {target}", err=True)


def _announce(handles: "Sequence[JobHandle]") -> None:
    first = handles[0].data
    click.echo(first.id if len(handles) == 1 else f"{len(handles)} jobs of group {printable(first.group or '')}")


def _download(handles: "Sequence[JobHandle]", directory: Path, *, is_silent: bool) -> dict[str, Path]:
    """Bring the policies of the jobs that succeeded, each to its own directory if there are several."""
    folders: dict[str, Path] = {}
    for handle in handles:
        if handle.status == JobStatus.SUCCEEDED:
            folder = directory if len(handles) == 1 else directory / f"seed-{seed_of(handle.data)}"
            fetch(chosen_checkpoint(handle, None), folder, is_silent=is_silent)
            folders[handle.id] = folder
    return folders


def seed_of(job: "Job") -> str:
    """The seed that the job trains with, as a text."""
    return str(job.resolved_spec.get("seed", "?"))


def final_return(job: "Job") -> float | None:
    """The return of the last evaluation, else that of the last training episodes."""
    metrics = job.latest_metrics
    return metrics.get("eval/mean_reward", metrics.get("rollout/ep_rew_mean"))


def _print_result(handles: "Sequence[JobHandle]", folders: dict[str, Path], *, as_json: bool) -> None:
    jobs = [handle.data for handle in handles]
    returns = [value for job in jobs if job.status == JobStatus.SUCCEEDED and (value := final_return(job)) is not None]
    if as_json and len(jobs) == 1:
        print_json({**jobs[0].model_dump(mode="json"), **_policy(jobs[0], folders)})
    elif as_json:
        print_json(
            {
                "object": "list",
                "data": [{**job.model_dump(mode="json"), **_policy(job, folders)} for job in jobs],
                "group": jobs[0].group,
                "mean_return": fmean(returns) if returns else None,
                "std_return": stdev(returns) if len(returns) > 1 else None,
            }
        )
    elif len(jobs) == 1:
        result = result_in_words(jobs[0])
        click.echo(result if not folders else f"{result.splitlines()[0]}\nThe policy is in {folders[jobs[0].id]}.")
    else:
        _print_summary(jobs, returns, folders)


def _policy(job: "Job", folders: dict[str, Path]) -> dict[str, str]:
    return {"policy": str(folders[job.id])} if job.id in folders else {}


def _print_summary(jobs: "Sequence[Job]", returns: Sequence[float], folders: dict[str, Path]) -> None:
    rows = [
        [
            seed_of(job),
            job.id,
            job.status.value,
            count(job.progress.timesteps),
            decimal(final_return(job)),
            duration((job.finished_at - job.started_at).total_seconds()) if job.finished_at and job.started_at else "–",
        ]
        for job in jobs
    ]
    print_table(_SUMMARY_COLUMNS, rows)
    if returns:
        spread = f" ± {decimal(stdev(returns))} (standard deviation)" if len(returns) > 1 else ""
        click.echo(f"Return {decimal(fmean(returns))}{spread} over {len(returns)} of {len(jobs)} seeds.")
    if folders:
        click.echo(f"The policies are in {next(iter(folders.values())).parent}.")
