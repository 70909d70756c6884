"""The settings that every contestant of the throughput benchmark trains with."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ppo_engine.presets import presets
from ppo_engine.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Task:
    """A setting; what it does not name is Stable-Baselines3's default, or nearest to it in the others.

    The learning rate is constant and neither observations nor rewards are normalised, whoever trains.
    """

    name: str
    env_id: str
    n_envs: int
    n_steps: int
    n_epochs: int
    batch_size: int
    total_timesteps: int
    """Every contestant does so many at least; returns are compared there, since a fast one goes on for longer."""
    learning_rate: float = 3e-4
    clip_range: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    device: Literal["cpu", "cuda"] = "cpu"
    hidden_sizes: tuple[int, ...] = (64, 64)

    @property
    def rows(self) -> int:
        """Environment steps of one iteration."""
        return self.n_envs * self.n_steps

    @property
    def label(self) -> str:
        """How tables name it."""
        return f"{self.env_id} {self.n_envs}×{self.n_steps}, {self.n_epochs} epochs, batch {self.batch_size}"


def preset_task(name: str, env_id: str, total_timesteps: int) -> Task:
    """The environment's preset as a task; only one without normalisation and schedules can be shared by all."""
    patch: Any = presets()[env_id].spec
    ppo = {key: value for key, value in patch["ppo"].items() if key != "total_timesteps"}
    assert not any(patch["normalize"].values()) and not isinstance(ppo["learning_rate"], dict)
    return Task(name, env_id, patch["env"]["n_envs"], total_timesteps=total_timesteps, **ppo)


TASKS = {
    task.name: task
    for task in (
        Task("cartpole", "CartPole-v1", 8, 128, 4, 256, total_timesteps=131_072),
        Task("pendulum", "Pendulum-v1", 4, 1024, 10, 64, total_timesteps=40_960),
        Task("halfcheetah-1", "HalfCheetah-v5", 1, 2048, 10, 64, total_timesteps=24_576),
        Task("halfcheetah", "HalfCheetah-v5", 8, 256, 10, 64, total_timesteps=40_960),
        preset_task("lunarlander", "LunarLander-v3", total_timesteps=81_920),
    )
}


def hyperparameters(task: Task) -> dict[str, Any]:
    """Those that bear the same names in our specs and in Stable-Baselines3."""
    other = ("name", "env_id", "n_envs", "total_timesteps", "device", "hidden_sizes")
    return {name: value for name, value in asdict(task).items() if name not in other}


def training_spec(task: Task, seed: int, *, backend: str = "auto", total_timesteps: int | None = None) -> TrainingSpec:
    """The task as our engine takes it."""
    return TrainingSpec.model_validate(
        {
            "preset": "default",
            "env": {"id": task.env_id, "n_envs": task.n_envs},
            "policy": {"hidden_sizes": list(task.hidden_sizes), "activation": "tanh", "log_std_init": 0.0},
            "ppo": {**hyperparameters(task), "total_timesteps": total_timesteps or task.total_timesteps},
            "normalize": {"observations": False, "rewards": False},
            "metrics": {"every_iterations": 1},
            "device": task.device,
            "backend": backend,
            "seed": seed,
        }
    )
