"""The HTTP process: jobs are asked for, watched and fetched here; nothing is trained."""
