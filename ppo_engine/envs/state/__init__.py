"""What an environment is between two steps, beyond what a replay of its episode brings back: seen, compared, set."""
