#!/usr/bin/env bash
# Sourced by every shell entry: makes or finds .venv from the lock file, installs sox where that is possible, and
# defines what the entries share. `bash environment.sh` only sets up.
#
# BIRDSONG_VENV     another place for the environment (default: .venv in the project)
# BIRDSONG_LOCK     requirements.lock or requirements-cuda.lock (default: the second where there is an NVIDIA GPU)
# BIRDSONG_PREDICTIONS   folder of the run files (default: predict in the project)
# BIRDSONG_PYTHON   the Python to make it with (default: the newest of python3.13, 3.12, 3.11, python3)

unset CDPATH
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BIRDSONG_VENV=${BIRDSONG_VENV:-$project/.venv}

log() { echo "$(date +%Y-%m-%dT%H:%M:%S) $*"; }
fail() { echo "error: $*" >&2; exit 1; }

have_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

as_root() { # run a command as root if that is possible without a password
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}

install_packages() { # apt names; on other systems, or without the rights, stop with the command to type
  if command -v apt-get >/dev/null; then
    if as_root true; then
      log "installing $*"
      as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' _ "$@" \
        || fail "could not install $*. Try: sudo apt-get update && sudo apt-get install $*"
      return
    fi
    fail "$* missing and no rights to install. Type: sudo apt-get install $*"
  fi
  command -v dnf >/dev/null && fail "$* missing. Type: sudo dnf install sox python3"
  command -v brew >/dev/null && fail "$* missing. Type: brew install sox python"
  fail "$* missing; install it with your system's package manager"
}

find_python() {
  local candidate
  for candidate in ${BIRDSONG_PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"; return
    fi
  done
  return 1
}

is_whole() { # whether packages can be installed into the environment
  "$BIRDSONG_VENV/bin/python" -c '' 2>/dev/null \
    && { command -v uv >/dev/null || "$BIRDSONG_VENV/bin/python" -m pip --version >/dev/null 2>&1; }
}

may_remove() { # whether an environment that cannot be used may go: half made ones, and the project's own
  [ ! -e "$BIRDSONG_VENV/.installed" ] || { [ "$BIRDSONG_VENV" -ef "$project/.venv" ] && [ -O "$BIRDSONG_VENV" ]; }
}

make_environment() {
  local lock=${BIRDSONG_LOCK:-} python installer
  [ -n "$lock" ] || { lock=requirements.lock; if have_gpu; then lock=requirements-cuda.lock; fi; }
  local stamp="$BIRDSONG_VENV/.installed" want
  want=$(cat "$project/$lock" | cksum)-$lock
  if [ -x "$BIRDSONG_VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then return; fi
  python=$(find_python) || { install_packages python3 python3-venv; python=$(find_python); } \
    || fail "Python 3.11, 3.12 or 3.13 is needed; point BIRDSONG_PYTHON at one"
  if ! is_whole; then
    if [ -f "$BIRDSONG_VENV/pyvenv.cfg" ]; then
      may_remove || fail "$BIRDSONG_VENV was finished, but its Python $(readlink "$BIRDSONG_VENV/bin/python") cannot be" \
        "reached by $(id -un), or has no pip. Bring that back, or make another environment: BIRDSONG_VENV=FOLDER $0"
      rm -rf "$BIRDSONG_VENV" # half made, or its Python has gone
    elif [ -n "$(ls -A "$BIRDSONG_VENV" 2>&1)" ] && [ -e "$BIRDSONG_VENV" ]; then
      fail "$BIRDSONG_VENV is no environment, or cannot be read by $(id -un); choose an empty or new folder: BIRDSONG_VENV=FOLDER $0"
    fi
    log "making the environment $BIRDSONG_VENV with $("$python" --version)"
    if command -v uv >/dev/null; then
      uv venv -q --python "$python" "$BIRDSONG_VENV" || fail "uv could not make $BIRDSONG_VENV"
    elif ! "$python" -m venv "$BIRDSONG_VENV" 2>/dev/null; then
      rm -rf "$BIRDSONG_VENV"
      install_packages "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
      "$python" -m venv "$BIRDSONG_VENV" || fail "could not make $BIRDSONG_VENV"
    fi
  fi
  log "installing the packages of $lock (1 to 2 GB, once)"
  if command -v uv >/dev/null; then
    installer=(uv pip install -q --python "$BIRDSONG_VENV/bin/python")
  elif "$BIRDSONG_VENV/bin/python" -m pip install -q uv >/dev/null 2>&1; then
    installer=("$BIRDSONG_VENV/bin/python" -m uv pip install -q --python "$BIRDSONG_VENV/bin/python")
  else
    installer=("$BIRDSONG_VENV/bin/python" -m pip install -q)
  fi
  "${installer[@]}" --require-hashes -r "$project/$lock" \
    || fail "the packages could not be installed; check the network and run the same command again"
  local packages
  packages=$("$BIRDSONG_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # Once now, rather than at every start where Python may not keep what it compiled: TensorFlow takes 15 s to compile.
  "$BIRDSONG_VENV/bin/python" -m compileall -q -j 0 "$packages" >/dev/null 2>&1 || true  # some packages ship templates
  echo "$project" > "$packages/birdsong.pth"
  echo "$want" > "$stamp"
}

check_tools() {
  command -v sox >/dev/null || install_packages sox libsox-fmt-all
}

take_value() { [ $# -ge 2 ] || fail "$1 needs a value; see --help"; }

make_environment
check_tools
export PATH="$BIRDSONG_VENV/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
