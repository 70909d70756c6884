"""The hyperparameters that change from iteration to iteration."""

from dataclasses import dataclass

from ppo_engine.spec import KLAdaptiveRate, LinearSchedule, PPOSpec, Schedule


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Those of one iteration."""

    learning_rate: float
    clip_range: float
    clip_range_vf: float | None
    ent_coef: float = 0.0
    critic_learning_rate: float | None = None
    """None: the critic's is the actor's."""
    kl_coef: float = 0.0
    changing: frozenset[str] = frozenset()
    """Those of the younger ones that are worth a metric."""

    def metrics(self) -> dict[str, float]:
        metrics = {"train/learning_rate": self.learning_rate, "train/clip_range": self.clip_range}
        if self.clip_range_vf is not None:
            metrics["train/clip_range_vf"] = self.clip_range_vf
        return metrics | {f"train/{name}": getattr(self, name) for name in sorted(self.changing)}


def scheduled(schedule: float | LinearSchedule, fraction_done: float) -> float:
    """The value of a schedule when `fraction_done` of the training, 0 to 1, lies behind."""
    if isinstance(schedule, LinearSchedule):
        return schedule.initial + min(fraction_done, 1.0) * (schedule.final - schedule.initial)
    return schedule


def highest(rate: KLAdaptiveRate) -> Schedule:
    """What a learning rate that follows the KL stays below."""
    return rate.maximum if rate.final is None else LinearSchedule(initial=rate.maximum, final=rate.final)


def coefficients(ppo: PPOSpec, fraction_done: float) -> Coefficients:
    """The scheduled hyperparameters when `fraction_done` of the training lies behind.

    Of what adapts, the penalty's coefficient is as it begins, and the learning rate the highest that it may be now.
    """
    rate = ppo.learning_rate
    return Coefficients(
        learning_rate=scheduled(highest(rate) if isinstance(rate, KLAdaptiveRate) else rate, fraction_done),
        clip_range=scheduled(ppo.clip_range, fraction_done),
        clip_range_vf=_optional(ppo.clip_range_vf, fraction_done),
        ent_coef=scheduled(ppo.ent_coef, fraction_done),
        critic_learning_rate=_optional(ppo.critic.learning_rate, fraction_done),
        kl_coef=0.0 if ppo.kl_penalty is None else ppo.kl_penalty.coef,
        changing=frozenset(_worth_a_metric(ppo)),
    )


def _optional(schedule: Schedule | None, fraction_done: float) -> float | None:
    return None if schedule is None else scheduled(schedule, fraction_done)


def _worth_a_metric(ppo: PPOSpec) -> list[str]:
    names = {
        "ent_coef": isinstance(ppo.ent_coef, LinearSchedule),
        "critic_learning_rate": ppo.critic.learning_rate is not None,
        "kl_coef": ppo.kl_penalty is not None,
    }
    return [name for name, is_reported in names.items() if is_reported]
