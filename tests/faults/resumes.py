"""Kills and drains trainings at random moments, and holds what they say of their resumes to what they end with.

    python -m tests.faults.resumes --seed 0 --cuts 3

Each environment trains undisturbed first, then again while its process is killed or drained, and resumed from its
newest checkpoint. Either it ends with the same policy, to the bit, and its ledger says nothing; or the ledger has a
`rewind` with the reason. The cuts follow from the seed, each is printed.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from ppo_engine.checkpoint import CheckpointManifest, verify
from ppo_engine.errors import CheckpointCorrupt
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec
from ppo_jobs.states import EventType
from tests.environments import PLUGIN_PATH
from worker import child
from worker.batches import Comparison
from worker.protocol import Assignment, CheckpointRecord, Command, EndRecord, MetricsRecord, Record, unframe

ITERATIONS, STEPS = 40, 64
LIMIT_SECONDS = 300.0

EXACT = (
    "CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "LunarLander-v3", "BipedalWalker-v3", "Taxi-v4",
    "ALE/Pong-v5", "MiniGrid-DoorKey-5x5-v0", "test/Walk-v0", "test/KeptCurriculum-v0", "test/KeptStatistics-v0",
)  # fmt: skip
"""They must be called exact, and be so."""
EITHER = (
    "test/Curriculum-v0", "test/Closed-v0", "test/SharedCurriculum-v0", "test/Hidden-v0", "test/GlobalRandom-v0",
    "test/SampledActions-v0", "test/Statistics-v0",
)  # fmt: skip
"""Equal, or called approximate."""
APPROXIMATE = ("test/LateCurriculum-v0", "test/Opaque-v0", "test/Unrepeatable-v0", "test/Clocked-v0")
"""They must not be called exact."""


@dataclass
class Attempts:
    """What the attempts of one training left."""

    sha256: str | None = None
    cuts: list[str] = field(default_factory=list)
    rewinds: list[str] = field(default_factory=list)


def spec_of(env_id: str, vectorization: str) -> TrainingSpec:
    n_envs = 2
    document = {
        "preset": "default",
        "env": {"id": env_id, "n_envs": n_envs, "vectorization": vectorization},
        "ppo": {"total_timesteps": ITERATIONS * STEPS, "n_steps": STEPS // n_envs, "batch_size": 32, "n_epochs": 2},
        "policy": {"hidden_sizes": [16, 16]},
        "metrics": {"every_iterations": 1},
        "checkpoints": {"every_timesteps": 5 * STEPS},
        "seed": 1,
    }
    return resolve(TrainingSpec.model_validate(document))


def newest_verified(directories: Iterable[Path]) -> Path | None:
    """Of those checkpoints that are whole, the one that is furthest on; None if none is."""
    whole: list[tuple[int, Path]] = []
    for directory in directories:
        with suppress(CheckpointCorrupt):
            whole.append((verify(directory).iteration, directory))
    return max(whole)[1] if whole else None


def train(spec: TrainingSpec, folder: Path, chance: random.Random | None, *, cuts: int) -> Attempts:
    """Trains to the end; `chance` decides when and how it is cut, None for not at all."""
    done, told, number = Attempts(), {}, 0
    while True:
        number += 1
        run = folder / str(number)
        (run / "checkpoints").mkdir(parents=True)
        newest = newest_verified(sorted(folder.glob("*/checkpoints/*")))
        resumed = 0 if newest is None else manifest_of(newest).iteration
        ahead = chance.randrange(1, 2 + ITERATIONS // max(1, cuts)) if chance and len(done.cuts) < cuts else None
        how = chance.choice(["kill", "drain"]) if chance else "kill"
        pause = chance.uniform(0.0, 0.05) if chance else 0.0
        records = attempt(spec, run, newest, number, resumed, ahead, how, pause)
        known = {key: data for key, data in told.items() if key[1] > resumed}
        batch_records: Sequence[tuple[Record, int]] = [(record, 0) for record in records]
        comparison = Comparison(known, resumed)
        while batch_records:
            batch = comparison.batch(batch_records)
            for entry in batch.entries:
                if entry.type is EventType.REWIND:
                    done.rewinds.append(str(entry.data["reason"]))
                elif entry.iteration is not None:
                    told[(entry.type, entry.iteration)] = entry.data
            stop = next(
                (i for i, (r, _) in enumerate(batch_records) if isinstance(r, CheckpointRecord | EndRecord)), None
            )
            batch_records = [] if stop is None else batch_records[stop + 1 :]
        end = next((record for record in records if isinstance(record, EndRecord)), None)
        if end is not None and end.outcome == "succeeded":
            final = newest_verified(sorted(folder.glob("*/checkpoints/*")))
            assert final is not None
            files = {file.name: file.sha256 for file in manifest_of(final).files}
            done.sha256 = files["policy.safetensors"]
            return done
        if end is not None and end.outcome != "drained":
            raise RuntimeError(f"{spec.env.id}: {end.message}")
        reached = max((r.iteration for r in records if isinstance(r, MetricsRecord)), default=resumed)
        done.cuts.append(f"{how} at iteration {reached}")


def attempt(
    spec: TrainingSpec,
    run: Path,
    newest: Path | None,
    number: int,
    resumed: int,
    ahead: int | None,
    how: str,
    pause: float,
) -> list[Record]:
    """One process: cut `ahead` iterations on, or left alone; all that it journaled."""
    order = Assignment(
        job_id="job_x",
        attempt=number,
        spec=spec,
        run_directory=str(run),
        resume_from=None if newest is None else str(newest),
    )
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writes)
        become(reads, run)
    os.close(reads)
    os.write(writes, order.model_dump_json().encode() + b"\n")
    deadline = time.monotonic() + LIMIT_SECONDS
    is_cut = False
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            raise TimeoutError(f"{spec.env.id} did not end within {LIMIT_SECONDS:g} s")
        told = [record for record in journal(run) if isinstance(record, MetricsRecord)]
        if ahead is not None and not is_cut and told and told[-1].iteration >= resumed + ahead:
            time.sleep(pause)
            is_cut = True
            if how == "kill":
                os.killpg(pid, signal.SIGKILL)
            else:
                os.write(writes, Command(command="drain").model_dump_json().encode() + b"\n")
        time.sleep(0.02)
    os.waitpid(pid, 0)
    os.close(writes)
    return journal(run)


def become(stdin: int, run: Path) -> None:
    """In the forked process: train."""
    try:
        os.setsid()
        os.dup2(stdin, 0)
        log = os.open(run / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(run)
        np.random.seed()
        child.run()
    finally:
        os._exit(1)


def journal(run: Path) -> list[Record]:
    path = run / "journal"
    return [record for record, _ in unframe(path.read_bytes())] if path.exists() else []


def manifest_of(checkpoint: Path) -> CheckpointManifest:
    return CheckpointManifest.model_validate_json((checkpoint / "manifest.json").read_bytes())


def judge(env_id: str, calm: Attempts, shaken: Attempts) -> str | None:
    """What is wrong with what became of an environment; None: nothing."""
    if any("came out differently" in reason for reason in shaken.rewinds):
        # After a resume that is called approximate nothing is compared.
        return "called exact, and came out differently"
    if env_id in EXACT and (shaken.rewinds or shaken.sha256 != calm.sha256):
        return f"is not exact: {shaken.rewinds or 'another policy'}"
    if env_id in EITHER and shaken.sha256 != calm.sha256 and not shaken.rewinds:
        return "another policy, and no word of it"
    if env_id in APPROXIMATE and shaken.cuts and not shaken.rewinds:
        return "called exact"
    return None


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--cuts", default=3, show_default=True, help="Of each training, at most.")
@click.option("--only", default="", help="Environments that have this in their id.")
def main(seed: int, cuts: int, only: str) -> None:
    """Run the campaign; the exit status is 1 if a resume was not what it was called."""
    faults = 0
    for env_id in (*EXACT, *EITHER, *APPROXIMATE):
        for vectorization in ("sync", "process"):
            if only not in env_id:
                continue
            spec = spec_of(env_id, vectorization)
            with tempfile.TemporaryDirectory(prefix="ppo-resumes-") as folder:
                calm = train(spec, Path(folder, "calm"), None, cuts=0)
                chance = random.Random(f"{seed} {env_id} {vectorization}")
                shaken = train(spec, Path(folder, "shaken"), chance, cuts=cuts)
            fault = judge(env_id, calm, shaken)
            faults += fault is not None
            same = "equal" if shaken.sha256 == calm.sha256 else "other weights"
            said = f"rewind: {shaken.rewinds[0]}" if shaken.rewinds else "exact"
            verdict = f"FAULT, {fault}" if fault else "ok"
            print(f"{verdict}: {env_id} {vectorization}: {', '.join(shaken.cuts)}: {same}, {said}", flush=True)
    print(f"{faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(PLUGIN_PATH))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN_PATH), os.getcwd()])
    main()
