"""Runs of published single-file programs, as they were published, from the checkouts that `make bench-peers` made."""

import contextlib
import importlib
import io
import os
import runpy
import statistics
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any

from benchmarks.laps import Mark, speed
from benchmarks.peers import CLEANRL, PUREJAXRL
from benchmarks.record import Record
from benchmarks.tasks import Task

EPISODES = 100
"""Of which a return is the mean: the last ones before the task's `total_timesteps`, as Stable-Baselines3 counts."""
ROUNDS = 8
"""PureJaxRL compiles the whole training, its length too: so many times `total_timesteps`."""


def train_cleanrl(task: Task, seed: int) -> Record:
    """CleanRL's script for the kind of action space; the one for Box normalises observations and rewards, always."""
    began = Mark.now()
    import gymnasium

    probe = gymnasium.make(task.env_id)
    script = "ppo.py" if isinstance(probe.action_space, gymnasium.spaces.Discrete) else "ppo_continuous_action.py"
    probe.close()
    path = CLEANRL.home / "cleanrl" / script
    _pass_observation_space(gymnasium.wrappers)
    with _running_as([script, *cleanrl_arguments(task, seed)]), contextlib.redirect_stdout(_Clock()) as clock:
        finished = runpy.run_path(str(path), run_name="__main__")
    first, last = clock.marks[0], clock.marks[-1]
    return {
        **speed((len(clock.marks) - 1) * task.rows, first, last),
        "start_seconds": first.wall - began.wall,
        "return": _latest_return(finished["envs"].envs),
    }


def cleanrl_arguments(task: Task, seed: int) -> list[str]:
    """The task in the words of CleanRL's command line."""
    values: dict[str, object] = {
        "env-id": task.env_id,
        "seed": seed,
        "total-timesteps": task.total_timesteps,
        "num-envs": task.n_envs,
        "num-steps": task.n_steps,
        "num-minibatches": task.rows // task.batch_size,
        "update-epochs": task.n_epochs,
        "learning-rate": task.learning_rate,
        "gamma": task.gamma,
        "gae-lambda": task.gae_lambda,
        "clip-coef": task.clip_range,
        "ent-coef": task.ent_coef,
        "vf-coef": task.vf_coef,
        "max-grad-norm": task.max_grad_norm,
    }
    switches = ["--no-anneal-lr", "--no-clip-vloss", "--cuda" if task.device == "cuda" else "--no-cuda"]
    return [f"--{name}={value}" for name, value in values.items()] + switches


def train_purejaxrl(task: Task, seed: int) -> Record:
    """PureJaxRL with Gymnax's environment of the same name; it clips values, and counts a truncation as an end."""
    began = Mark.now()
    _stand_in_for_unused_packages()
    sys.path.insert(0, str(PUREJAXRL.home / "purejaxrl"))
    import jax

    published = importlib.import_module("ppo")
    config = purejaxrl_config(task)
    key = jax.random.PRNGKey(seed)
    train = jax.jit(published.make_train(config)).lower(key).compile()
    compiled = Mark.now()
    metrics = jax.block_until_ready(train(key))["metrics"]
    figures = speed(config["TOTAL_TIMESTEPS"], compiled, Mark.now())
    until = task.total_timesteps // task.rows
    ended = metrics["returned_episode"][:until].reshape(-1)
    returns = metrics["returned_episode_returns"][:until].reshape(-1)[ended][-EPISODES:]
    return {
        **figures,
        "start_seconds": compiled.wall - began.wall + task.rows / figures["steps_per_second"],
        "return": float(returns.mean()) if len(returns) else None,
    }


def purejaxrl_config(task: Task) -> dict[str, Any]:
    """The task in the words of PureJaxRL's configuration."""
    return {
        "ENV_NAME": task.env_id,
        "TOTAL_TIMESTEPS": ROUNDS * (task.total_timesteps // task.rows) * task.rows,
        "NUM_ENVS": task.n_envs,
        "NUM_STEPS": task.n_steps,
        "NUM_MINIBATCHES": task.rows // task.batch_size,
        "UPDATE_EPOCHS": task.n_epochs,
        "LR": task.learning_rate,
        "ANNEAL_LR": False,
        "GAMMA": task.gamma,
        "GAE_LAMBDA": task.gae_lambda,
        "CLIP_EPS": task.clip_range,
        "ENT_COEF": task.ent_coef,
        "VF_COEF": task.vf_coef,
        "MAX_GRAD_NORM": task.max_grad_norm,
        "ACTIVATION": "tanh",
    }


class _Clock(io.TextIOBase):
    """A standard output that keeps the time of each line about steps per second: the end of an iteration."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def write(self, text: str) -> int:
        if text.startswith("SPS:"):
            self.marks.append(Mark.now())
        return len(text)


@contextlib.contextmanager
def _running_as(arguments: list[str]) -> Iterator[None]:
    """A command line and a directory for what the script writes."""
    before, sys.argv = sys.argv, arguments
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as directory:
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(home)
            sys.argv = before


def _pass_observation_space(wrappers: Any) -> None:
    """Gymnasium 1.0 made it an argument of this wrapper; CleanRL's script is written for older ones."""
    transform = wrappers.TransformObservation
    wrappers.TransformObservation = lambda env, func: transform(env, func, env.observation_space)


def _latest_return(environments: list[Any]) -> float | None:
    """The mean return of the latest episodes, of which each environment gives as many."""
    returns: list[float] = []
    for environment in environments:
        wrapper = environment
        while not hasattr(wrapper, "return_queue"):
            wrapper = wrapper.env
        returns += list(wrapper.return_queue)[-max(EPISODES // len(environments), 1) :]
    return statistics.fmean(float(value) for value in returns) if returns else None


def _stand_in_for_unused_packages() -> None:
    """Empty packages for what PureJaxRL's wrappers import for environments that no task here has."""
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = types.ModuleType(name)
    brax: Any = sys.modules["brax"]
    brax.envs = sys.modules["brax.envs"]
    training: Any = sys.modules["brax.envs.wrappers.training"]
    training.EpisodeWrapper = training.AutoResetWrapper = object
