"""Policies that remember: cells, sequences of a rollout, and what acts and learns with them."""
