"""Tries an environment as a training would use it, for whoever writes one."""
