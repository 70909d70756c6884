"""`python -m ppo_client` is `ppo`."""

from ppo_client.cli import main

main()
