"""Tasks, data, metrics, intervals, the guard: what is true of a model, with n."""
