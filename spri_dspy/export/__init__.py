"""Write a run as rubrics, chat rows or preference pairs, with a dataset card."""
