"""The fast path: PPO for MLP policies on the CPU as compiled loops, on the memory of the torch policy.

Where a module has a namesake among those of the torch path, it computes the same numbers up to rounding.
"""
