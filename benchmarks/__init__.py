"""Side by side with the peers, on this machine, in the same run."""
