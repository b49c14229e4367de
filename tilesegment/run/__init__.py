"""Running a plan: blocks, the ledger that keeps them, executors, and the story of one scene."""
