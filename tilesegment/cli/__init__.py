"""The command line: one module a command, and one registry of shared options."""
