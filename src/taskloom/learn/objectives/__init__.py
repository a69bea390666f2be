"""What a fit can minimise, one file each: pure functions of logits that return one number.

The first argument is the merged model's logits ``(B, C)``. What else a function takes, in this order,
its ``needs`` say: ``"labels"`` ``(B,)``, the classes; ``"pairs"`` ``(B,)``, equal where examples belong
together; ``"expert logits"`` ``(B, C)``. The result is a mean over the examples, differentiable in the
logits.
"""
