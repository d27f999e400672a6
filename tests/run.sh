#!/usr/bin/env bash
# The test suite, in the project's own environment, on up to four cores. Arguments go to pytest: tests/run.sh -k mask -x
# Without processes of its own, for a debugger: tests/run.sh -n 0
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=environment.sh
. "$here/environment.sh"
cd "$here"
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
