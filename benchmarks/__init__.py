"""Speed and size of batpak beside its peers, measured in turns in one run.

Times work; what can be counted (system calls, bytes, decoded records) is counted in
the tests. `python -m benchmarks --help` says what can be asked for.
"""
