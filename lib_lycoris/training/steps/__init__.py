"""One step of a training: batch, loss, gradients, optimiser."""
