"""How much of each domain or task a training mixture should hold, and the small models that say so.

One rule per file, registered; beside them a small proxy model of bytes, its gradients, and a sparse
autoencoder, which data selection uses, too.
"""
