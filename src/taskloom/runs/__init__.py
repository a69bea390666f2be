"""Plan, lock, ledger, pipeline, report: the rooms strung together."""
