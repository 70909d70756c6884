"""The record of a job: what the API and the workers share."""
