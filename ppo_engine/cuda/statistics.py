"""Running statistics on the device: what `normalization` and `metrics` do on the host, for one rollout."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.cuda.graphs import Replayed
from ppo_engine.cuda.rollout import DeviceRollout
from ppo_engine.metrics import EPISODES
from ppo_engine.normalization import EPSILON
from ppo_engine.statistics import Statistics


class Moments:
    """Mean and population variance per feature, float64, on the device."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.variance = torch.ones(size, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(torch.from_numpy(state[name]))

    def take_in(self, rows: Tensor) -> None:
        """Takes in `rows` [n, size]; as in `RunningMoments.update`."""
        batch = rows.double()
        variance, mean = torch.var_mean(batch, dim=0, correction=0)
        total = self.count + len(batch)
        share = len(batch) / total
        shift = mean - self.mean
        spread = (1 - share) * self.variance + share * variance + share * (1 - share) * shift.square()
        self.variance.copy_(spread)
        self.mean.add_(share * shift)
        self.count.copy_(total)


class DeviceStatistics:
    """The statistics of one training on the device, and the host's objects that they come from and go back to.

    `load` uploads them at the start of an iteration, `take_in` updates them by a rollout, and `store` gives the host
    what the report brought back.
    """

    def __init__(self, rollout: DeviceRollout, host: Statistics) -> None:
        self._rollout = rollout
        self._normalizer, self._reward_normalizer = host.normalizer, host.reward_normalizer
        self._episodes = host.episodes
        device, n_envs = rollout.rewards.device, rollout.rewards.shape[1]
        self.observations = Moments(rollout.raw_observations.shape[-1], device)
        self.rewards = Moments(1, device)
        self.running = torch.zeros(3, n_envs, dtype=torch.float64, device=device)
        """[3, N] of the episodes under way: discounted return, return, length."""
        self.normalized_rewards = torch.zeros_like(rollout.rewards)
        """[T, N], what the learner sees."""
        gamma = 0.0 if host.reward_normalizer is None else host.reward_normalizer.gamma
        self._decays = torch.tensor([[gamma], [1.0], [1.0]], dtype=torch.float64, device=device)
        self._places = torch.arange(rollout.rewards.numel(), device=device)
        self._finished = torch.zeros(3, min(EPISODES, rollout.rewards.numel()), dtype=torch.float64, device=device)
        self.take_in = Replayed(self._take_in, device, changes=[*self._moments(), self.running])

    def load(self) -> None:
        """Uploads what the host holds."""
        episodes = self._episodes.state()
        rows = [np.zeros_like(episodes["returns"]), episodes["returns"], episodes["lengths"].astype(np.float64)]
        if self._normalizer is not None:
            self.observations.load(self._normalizer.state())
        if self._reward_normalizer is not None:
            self.rewards.load(self._reward_normalizer.state())
            rows[0] = self._reward_normalizer.returns
        self.running.copy_(torch.from_numpy(np.stack(rows)))

    def normalized(self, observations: Tensor) -> Tensor:
        """Raw observations [..., D] as the policy sees them, by the statistics as they stand."""
        if self._normalizer is None:
            return observations
        deviation = torch.sqrt(self.observations.variance + self._normalizer.epsilon)
        scaled = (observations - self.observations.mean) / deviation
        clip = self._normalizer.clip
        return scaled.clamp(-clip, clip).float()

    def report(self) -> dict[str, Tensor]:
        """What `store` needs, by name."""
        return {
            **{f"observations/{name}": tensor for name, tensor in self.observations.tensors.items()},
            **{f"rewards/{name}": tensor for name, tensor in self.rewards.tensors.items()},
            "episodes/running": self.running,
            "episodes/finished": self._finished,
        }

    def store(self, report: Mapping[str, NDArray[np.float64]]) -> None:
        """Gives the host's objects what a report holds."""
        discounted, returns, lengths = report["episodes/running"]
        if self._normalizer is not None:
            self._normalizer.restore(_moments("observations", report))
        if self._reward_normalizer is not None:
            self._reward_normalizer.restore({**_moments("rewards", report), "returns": discounted})
        there, finished_returns, finished_lengths = report["episodes/finished"]
        ended, before = there > 0, self._episodes.state()
        self._episodes.restore(
            {
                "returns": returns,
                "lengths": lengths.astype(np.int64),
                "finished_returns": np.append(before["finished_returns"], finished_returns[ended]),
                "finished_lengths": np.append(before["finished_lengths"], finished_lengths[ended].astype(np.int64)),
            }
        )

    @torch.no_grad()
    def _take_in(self) -> None:
        rollout = self._rollout
        rewards, done = rollout.rewards.double(), rollout.terminated | rollout.truncated
        gains = torch.stack([rewards, rewards, torch.ones_like(rewards)], dim=1)
        sums = sums_along_episodes(gains, done, self.running, self._decays)
        self.running.copy_(sums[-1].masked_fill(done[-1], 0.0))
        self._finished.copy_(last_finished(sums[:, 1:], done, self._places, self._finished.shape[1]))
        # The rollout's own observations were normalised before; from here on the next one's are.
        self.observations.take_in(rollout.raw_observations.flatten(0, 1))
        self.normalized_rewards.copy_(rewards)
        if self._reward_normalizer is not None:
            self.rewards.take_in(sums[:, 0].reshape(-1, 1))
            clip = self._reward_normalizer.clip
            self.normalized_rewards.copy_((rewards / reward_scale(self.rewards)).clamp(-clip, clip))

    def _moments(self) -> list[Tensor]:
        return [*self.observations.tensors.values(), *self.rewards.tensors.values()]


def sums_along_episodes(gains: Tensor, done: Tensor, running: Tensor, decays: Tensor) -> Tensor:
    """What each episode has gathered so far, at each step: [T, K, N].

    Args:
        gains: [T, K, N]; what a step adds to each of K sums.
        done: [T, N] bool; the sums start anew after it.
        running: [K, N]; what was gathered before.
        decays: [K, 1]; by which a sum shrinks before a step adds to it.
    """
    going_on = torch.cat([torch.ones_like(done[:1]), ~done[:-1]]).to(gains.dtype)
    factors = going_on.unsqueeze(1) * decays
    sums = []
    for gain, factor in zip(gains.unbind(), factors.unbind(), strict=True):
        running = torch.addcmul(gain, factor, running)
        sums.append(running)
    return torch.stack(sums)


def last_finished(sums: Tensor, done: Tensor, places: Tensor, most: int) -> Tensor:
    """The last episodes that ended, oldest first: [3, most], whether there is one, its return, and its length."""
    latest = torch.where(done.flatten(), places, -1).topk(most).values.flip(0)
    chosen = sums.transpose(0, 1).flatten(1).index_select(1, latest.clamp(min=0))
    return torch.cat([(latest >= 0).to(sums.dtype).unsqueeze(0), chosen])


def reward_scale(moments: Moments) -> Tensor:
    """What rewards are divided by, a scalar; as `RewardNormalizer.scale`."""
    variance, square = moments.variance[0], moments.mean[0].square()
    scale = torch.where(variance > EPSILON * square, variance, variance + square).sqrt()
    return torch.where((moments.count == 0) | (variance + square == 0), 1.0, scale)


def _moments(name: str, report: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
    return {part: report[f"{name}/{part}"] for part in ("mean", "variance", "count")}
