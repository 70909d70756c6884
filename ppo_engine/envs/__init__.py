"""Vector environments: N copies stepped side by side, seeded, validated, watched, and restorable."""
