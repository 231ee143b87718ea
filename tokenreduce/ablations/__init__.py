"""Ablations: grids of cells, their budgets, and what becomes of them."""
