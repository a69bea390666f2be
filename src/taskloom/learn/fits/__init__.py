"""Published methods that fill numbers into a recipe, one file each: ``(Problem, options) -> Fitted``."""
