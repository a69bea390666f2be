"""Small modules on top of a merged model, one published method a file.

Each is fitted on a `taskloom.learn.problem.Problem` with the model run through
`torch.func.functional_call`, never owns a merge, and is kept as a folder that works on a plain
transformers model (`taskloom.open_module`). What they share is in ``kit``.
"""
