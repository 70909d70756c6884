"""The `ppo` command line: a command loads when it is needed, and imports heavy things inside its functions."""

from ppo_client.cli.root import main

__all__ = ["main"]
