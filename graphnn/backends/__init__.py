"""The performers of a plan. `graphnn.backends` itself is the function that lists their names."""
