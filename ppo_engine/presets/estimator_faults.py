"""What is wrong between the settings of advantages and those that they depend on."""

from ppo_engine.spec import SpecFault, TrainingSpec


def estimator_faults(spec: TrainingSpec) -> list[SpecFault]:
    """What the estimator of a resolved spec lacks, or leaves without a meaning."""
    ppo, faults = spec.ppo, []
    if ppo.advantage_estimator != "n_step" and ppo.n_step is not None:
        faults.append(SpecFault("/ppo/n_step", f"the advantage estimator {ppo.advantage_estimator} has no n"))
    elif ppo.advantage_estimator == "n_step" and ppo.n_step is None:
        faults.append(SpecFault("/ppo/n_step", "the advantage estimator n_step needs it"))
    elif ppo.n_step is not None and ppo.n_step > ppo.n_steps:
        message = f"{ppo.n_step} is more than n_steps = {ppo.n_steps}, and no sum goes beyond the rollout"
        faults.append(SpecFault("/ppo/n_step", message))
    if ppo.recompute_advantages and max(ppo.n_epochs, ppo.critic.n_epochs or 1) == 1:
        faults.append(SpecFault("/ppo/recompute_advantages", "n_epochs is 1: there is no second epoch"))
    return faults
