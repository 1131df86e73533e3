"""The built-in metrics: pure functions of two tensors, one row for each image."""
