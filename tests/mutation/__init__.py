"""Mutation tests of the engine: `python -m tests.mutation` changes its code in one place at a time,
and reports the changes that no test notices."""
