"""The fast path: PPO for MLP policies on the CPU as compiled loops, on the memory of the torch policy.

Each module has the functions of its namesake among the torch path's, and computes the same numbers up to rounding.
"""
