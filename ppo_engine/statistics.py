"""What is gathered of all rollouts, and stands still while one is collected."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppo_engine.experience import Experience
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer


@dataclass(frozen=True, slots=True)
class Statistics:
    """Those of one training; a normaliser is None where its numbers are left as they are."""

    normalizer: ObservationNormalizer | None
    reward_normalizer: RewardNormalizer | None
    episodes: EpisodeStatistics

    def before_learning(self, experience: Experience) -> NDArray[np.float64]:
        """Takes in the ends of episodes and the rewards; returns rewards [T, N] as the learner is to see them."""
        done = experience.terminated | experience.truncated
        self.episodes.update(experience.rewards, done, experience.valid)
        if self.reward_normalizer is None:
            return experience.rewards
        self.reward_normalizer.update(experience.rewards, done, experience.valid)
        return self.reward_normalizer.normalize(experience.rewards)

    def after_learning(self, experience: Experience) -> None:
        """Takes in the observations, which the learner had to see as the policy saw them."""
        if self.normalizer is not None:
            self.normalizer.update(experience.raw_observations[experience.valid])
