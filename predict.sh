#!/usr/bin/env bash
# Rank the species of recordings with a trained network: a CSV of MediaId;ClassId;probability, best first.
#
#   ./predict.sh                          the test set of the last run
#   ./predict.sh path/to/recordings       any folders (all depths) and files of audio
#   ./predict.sh day1 day2 --format csv --format raven   detections with start and end
#   ./predict.sh recordings --top 5 --run runs/demo-residual --output species.csv --jobs 4
#
# All options: ./predict.sh --help
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=environment.sh
. "$here/environment.sh"
exec python "$here/predict/predict.py" "$@"
