"""What is in memory: one part for each run of events, and who finds what in it."""
