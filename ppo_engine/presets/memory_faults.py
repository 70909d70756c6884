"""What is wrong with a policy's memory, between the fields of a resolved spec."""

from ppo_engine.spec import SpecFault, TrainingSpec


def memory_faults(spec: TrainingSpec) -> list[SpecFault]:
    """What of the training a policy with memory cannot do."""
    policy, ppo, faults = spec.policy, spec.ppo, []
    if policy.memory == "none":
        return []
    if policy.sequence_length > ppo.n_steps:
        message = f"{policy.sequence_length} is more than n_steps = {ppo.n_steps}: no sequence is longer than a rollout"
        faults.append(SpecFault("/policy/sequence_length", message))
    elif policy.sequence_length > ppo.batch_size:
        message = (
            f"{policy.sequence_length} is more than batch_size = {ppo.batch_size}: minibatches are whole sequences"
        )
        faults.append(SpecFault("/policy/sequence_length", message))
    if ppo.recompute_advantages:
        message = "the critic's values hang together by its memory, and are not estimated anew within a rollout"
        faults.append(SpecFault("/ppo/recompute_advantages", message))
    if spec.env.vectorization == "device":
        faults.append(SpecFault("/env/vectorization", "environments on the device do not know policies with memory"))
    return faults
