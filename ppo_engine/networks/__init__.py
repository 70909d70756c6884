"""The modules that a policy is made of."""
