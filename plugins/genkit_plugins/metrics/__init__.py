"""The built-in metrics: pure functions of two tensors, a row for each image."""
