"""The metacore command.

Every subcommand is a thin shell over a room; exit codes are given here and nowhere else.
"""

from metacore.cli.main import main as main
