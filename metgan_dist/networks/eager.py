"""Functions that torch.compile leaves out of its graphs."""

import torch

# What torch's optimisers use. `torch.compiler.disable` does the same, but loads the compiler where it decorates: two
# seconds of every process that knows of methods. This one waits for the first call.
eager = torch._disable_dynamo
