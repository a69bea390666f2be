"""Run these weights on this batch: the only room that knows how a model is called."""
