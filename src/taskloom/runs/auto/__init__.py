"""``taskloom auto``: a pool, a target and some minutes in, the model that does best on the target out.

`portfolio` says what is tried for what there is; `ladder` how many of it on how much, rung by rung
(successive halving); `purse` what time is left and what was paid; `ground` which examples decide what;
`halving` climbs; `ending` holds what is left against the base, the best expert, the average and a
fine-tune on examples that chose nothing, and hands the winner over.
"""
