"""mergekit's YAML: read strictly, resolved tensor by tensor into a program of the engine."""
