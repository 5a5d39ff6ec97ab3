"""Mutation testing: break one thing in a copy of the code, and see whether a test notices.

`targets` says what is mutated and by which tests; `operators` makes mutants from source
text; `recorder` is a pytest plugin, loaded in the runs of tests; `trial` runs them in
isolation. Nothing here touches the working tree. See docs/mutation.md.
"""
