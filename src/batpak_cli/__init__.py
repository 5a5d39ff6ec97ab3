"""The command line of batpak: what people and shell scripts hold.

Stands above `batpak` and uses its public calls. `app` has the commands, `importers`
read foreign sources, `demo` shows the whole. Importing this package loads nothing.
"""
