"""Where people talk to her; each platform translates its library's events and nothing else."""
