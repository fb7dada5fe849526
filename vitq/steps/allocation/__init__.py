"""Mixed precision: sensitivities, budgets, and the search for bit-widths within them."""
