#!/usr/bin/env bash
# The test suite, in the project's own environment. Arguments go to pytest: tests/run.sh -k mask -x
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=environment.sh
. "$here/environment.sh"
cd "$here"
exec python -m pytest "$@"
