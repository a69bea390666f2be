"""Ways to train an expert from a base, one file each, registered under "train"."""
