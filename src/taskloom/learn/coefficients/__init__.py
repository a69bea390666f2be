"""Coefficients of task vectors by gradient, in the memory of one model however many experts there are.

``layout`` says what has a coefficient, ``reading`` and ``vectors`` stream task vectors from where they
are stored, ``blend`` is the merged model with its gradient, ``descend`` is the loop.
"""
