"""Tasks, metrics and honest scores: what a task is, where its data comes from, how it is judged."""
