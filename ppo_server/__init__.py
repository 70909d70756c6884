"""Running the service: `ppo up` and the commands beside it."""
