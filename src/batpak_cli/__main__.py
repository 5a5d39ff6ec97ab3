"""`python -m batpak_cli` is `batpak`."""

from batpak_cli.app import main

main()
