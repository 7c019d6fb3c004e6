"""From a budget to a plan: one model, any budget, and what only a runtime tells measured and planned for again."""
