"""`python -m ppo_engine.envs.shipped`: describe the environments of the known distributions that are installed."""

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.registry import environments_of_distribution
from ppo_engine.envs.shipped import installed, path_of


def described(distribution: str) -> str:
    """As JSON, one environment a line."""
    entries = [describe_environment(env_id).model_dump_json() for env_id in environments_of_distribution(distribution)]
    return "[\n" + ",\n".join(entries) + "\n]\n"


if __name__ == "__main__":
    for name in installed():
        path_of(name).write_text(described(name))
