"""The worker: Celery's process, the supervisor of an attempt, the child that trains, and the sweeper."""
