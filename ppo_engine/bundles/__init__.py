"""What a user downloads."""
