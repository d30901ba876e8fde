"""Results for people: figures, traces and tables in the terminal."""
