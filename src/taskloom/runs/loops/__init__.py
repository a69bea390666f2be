"""Training loops that merge: one file per published method, discovered by the registry."""
