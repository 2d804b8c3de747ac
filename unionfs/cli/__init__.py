"""The command line: one file a command; it prints, and decides nothing."""
