"""Steps by name: what a ``steps:`` list in a plan or a recipe file is made of."""
