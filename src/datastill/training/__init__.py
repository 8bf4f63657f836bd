"""The one training loop, and what it eats: views, batches, losses, optimisers, and the bank of trained networks."""
