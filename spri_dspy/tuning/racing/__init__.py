"""Racing: name the best of several candidates by a set-level metric, paying for part of the scores only."""
