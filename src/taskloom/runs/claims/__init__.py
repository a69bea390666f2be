"""The claims ledger: every merging method on a suite of tasks, and what its paper says of it."""
