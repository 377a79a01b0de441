"""Networks put together from tensors whose elements are neurons."""
