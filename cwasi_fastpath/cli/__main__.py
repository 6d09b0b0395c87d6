"""python -m cwasi_fastpath.cli: the command, without an installed script."""

from . import main

main()
