"""PPO as a library. Knows nothing of jobs, SQL, HTTP or Celery."""
