#!/bin/sh
# Runs `metacore WORD` from a copy of the code that can be written, and again whenever that changes.
set -eu
[ -d /live ] || exec metacore "$@"
for package in metacore metacore_operator; do
  [ -d "/live/$package" ] || cp -R "$(python3 -c "import $package; print($package.__path__[0])")" /live/
done
exec python3 -m watchfiles --filter python "python3 -m metacore.cli $*" /live
