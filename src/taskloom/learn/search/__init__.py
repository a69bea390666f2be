"""Search without gradients: what proposes candidates, what each came to, and the loop between them.

A proposer (`Proposer`) names candidates, which are options of a merging method; `search` has each
measured once, writes it down before it goes on (`Journal`), and stops where the budget does. Proposers
draw their random numbers from their own seed and see nothing but losses, so a search that was
interrupted is resumed by running it again: what the journal holds is told, not measured.
"""
