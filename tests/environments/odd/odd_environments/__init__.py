"""What authors of environments get wrong, or do otherwise than most. `unusual` works; `harmful` and `registering` do
not, and must cost nothing but themselves. No process but one that may die should call those two."""
