#!/usr/bin/env bash
# From nothing to a trained network, its MAP, a prediction CSV, pictures and a report. Stages that are done are
# skipped, so the same command resumes whatever was interrupted.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)

config=$here/config/demo.toml  # experiment
stage=0                        # first stage
stop_stage=6                   # last stage
jobs=0                         # processes; 0: one per core
scheduler=                     # of a Dask cluster that does stages 2, 3 and the scoring of 5
mini=                          # a handful of recordings and one epoch through every stage
set=()                         # section.key=value overrides

usage() {
  cat <<END
usage: ./doall.sh [--config FILE] [--stage N] [--stop-stage N] [--jobs N] [--scheduler ADDRESS] [--mini] [--set SECTION.KEY=VALUE]...

  --config FILE    experiment (default: ${config#"$here/"})
  --stage N        first stage (default: $stage)
  --stop-stage N   last stage (default: $stop_stage)
  --jobs N         processes, 0: one per core (default: $jobs)
  --scheduler ADDRESS   let a Dask cluster (tcp://HOST:8786) resample, load and predict
  --mini           a handful of recordings and one epoch through every stage
  --set KEY=VALUE  override one key of the experiment, such as train.epochs=40; may be repeated

stages: 0 environment, 1 fetch, 2 resample, 3 load, 4 train, 5 predict and evaluate, 6 report and pictures
END
}

arguments=()  # without --stage, for the command that goes on
while [ $# -gt 0 ]; do
  case $1 in
    --config|--stage|--stop-stage|--jobs|--scheduler|--set)
      [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
      [ "$1" = --stage ] || arguments+=("$1" "$2")
      case $1 in
        --config) config=$2 ;;
        --stage) stage=$2 ;;
        --stop-stage) stop_stage=$2 ;;
        --jobs) jobs=$2 ;;
        --scheduler) scheduler=$2 ;;
        --set) set+=(--set "$2") ;;
      esac
      shift 2 ;;
    --mini) mini=--mini; arguments+=(--mini); shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done
for number in "$stage" "$stop_stage" "$jobs"; do
  case $number in ''|*[!0-9]*|?????*) echo "error: expected a number, received '$number'; see --help" >&2; exit 2 ;; esac
done
stage=$((10#$stage)) stop_stage=$((10#$stop_stage)) # 05 is 5
if [ "$stop_stage" -gt 6 ] || [ "$stage" -gt "$stop_stage" ]; then
  echo "error: --stage is at most --stop-stage, and that at most 6; received $stage and $stop_stage" >&2; exit 2
fi
for override in ${set[@]+"${set[@]}"}; do
  case $stage$override in
    [56]predict.*) echo "error: a run predicts by the settings that stage 4 gives it, also when it is trained: use --stage 4 with $override, or ./predict.sh" >&2; exit 2 ;;
  esac
done
[ -f "$config" ] || { echo "error: there is no configuration $config" >&2; exit 2; }

# shellcheck source=environment.sh
. "$here/environment.sh"
options=(--config "$config" ${mini:+"$mini"} ${set[@]+"${set[@]}"})
workers=(--jobs "$jobs")
spread=("${workers[@]}" ${scheduler:+--scheduler "$scheduler"})
resolved=$(python "$here/config" "${options[@]}" --get corpus_dir run_dir) || exit $?
{ read -r corpus_dir; read -r run_dir; } <<< "$resolved"

run_stage() { # number, name, command...
  local number=$1 name=$2 started=$SECONDS status=0
  shift 2
  [ "$number" -ge "$stage" ] && [ "$number" -le "$stop_stage" ] || return 0
  log "stage $number: $name"
  "$@" || status=$?
  if [ $status -ne 0 ]; then
    printf 'error: stage %s (%s) stopped after %s s. Once mended, go on with:\n  %q' "$number" "$name" $((SECONDS - started)) "$0" >&2
    case "$number ${set[*]-}" in [56]*" predict."*) number=4 ;; esac # which gives a run its settings, in seconds
    printf ' %q' ${arguments[@]+"${arguments[@]}"} --stage "$number" >&2
    echo >&2
    exit $status
  fi
  if [ -d "$corpus_dir" ]; then
    echo "$(date +%Y-%m-%dT%H:%M:%S),$number,$name,$((SECONDS - started)),$(basename "$run_dir")" >> "$corpus_dir/stages.csv"
  fi
  log "stage $number: done in $((SECONDS - started)) s"
}

predict_and_evaluate() {
  local csv="${BIRDSONG_PREDICTIONS:-$here/predict}/$(basename "$run_dir").csv"
  [ -d "$corpus_dir/features" ] || fail "there are no features in $corpus_dir. Run stages 1 to 4 first."
  if [ -z "$(find "$corpus_dir/features" -name 'test-*.h5' -print -quit)" ]; then
    log "the corpus has no test part; predict a folder of recordings with ./predict.sh FOLDER --run $run_dir"
    return
  fi
  python "$here/predict/predict.py" --run "$run_dir" --output "$csv" "${spread[@]}" || return
  if [ ! -f "$corpus_dir/truth.csv" ]; then
    log "the corpus has no ground truth for its test part; evaluate with: python predict/evaluate.py $csv --truth TRUTH.csv"
    return
  fi
  python "$here/predict/linearBaseline.py" --run "$run_dir" || return
  python "$here/predict/evaluate.py" "$csv" --truth "$corpus_dir/truth.csv" --run "$run_dir"
}

report_and_pictures() {
  python "$here/train/generateImages.py" "${options[@]}" --limit 200 "${workers[@]}" || return
  python "$here/predict/makeReport.py" --run "$run_dir"
}

run_stage 0 environment python "$here/train/checkSetup.py" "${options[@]}"
run_stage 1 fetch python "$here/preprocess/fetchData.py" "${options[@]}" "${workers[@]}"
run_stage 2 resample python "$here/preprocess/resample.py" "${options[@]}" "${spread[@]}"
run_stage 3 load python "$here/preprocess/loadData.py" "${options[@]}" "${spread[@]}"
run_stage 4 train python "$here/train/trainModel.py" "${options[@]}"
run_stage 5 "predict and evaluate" predict_and_evaluate
run_stage 6 "report and pictures" report_and_pictures
[ "$stop_stage" -lt 6 ] || log "result: $run_dir/report.html"
