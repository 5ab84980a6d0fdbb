"""Looks at a deployment from end to end, and says in words what is wrong and what to do."""
