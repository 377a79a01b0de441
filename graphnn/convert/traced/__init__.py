"""Whole modules, traced by torch.fx."""
