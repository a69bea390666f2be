"""Which examples of a pool help a target: one selection rule per file.

Each is a function of its options that returns a `taskloom.choose.selector.Selector`;
`taskloom.select_data` runs it over a pool.
"""
