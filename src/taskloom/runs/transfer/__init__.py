"""Which source task helps which target: the pairwise grid, and how well cheap estimates foresee it."""
