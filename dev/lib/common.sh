# shellcheck shell=bash
# Words that every script in dev/ shares: where things are kept, how a script speaks, how a lock is held.

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/jam-dev
CLUSTER=${JAM_CLUSTER:-dev}
RUN=$CACHE/run/$CLUSTER

[[ $CLUSTER =~ ^[a-z][a-z0-9]{0,11}$ ]] || {
  echo "JAM_CLUSTER=$CLUSTER: a cluster name is 1 to 12 lower-case letters and digits, a letter first" >&2
  exit 2
}

# Progress goes to stderr, so that what a script prints as its result can be captured.
say() { echo "$*" >&2; }

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "needs root: it makes network namespaces and cgroups (run it with sudo)"
}

# seconds since this script began, with one decimal
elapsed() {
  local now=${EPOCHREALTIME/[.,]/}
  printf '%d.%d' $(((now - BEGAN) / 1000000)) $(((now - BEGAN) / 100000 % 10))
}
BEGAN=${BEGAN:-${EPOCHREALTIME/[.,]/}}

# hold_lock FILE WHAT: at most one holder; the next one is refused with a sentence that names the first.
# The kernel drops the lock with its last holder, so a killed script leaves none behind. Descriptor 9 is the lock:
# whatever a script starts in the background must be started with 9>&-, or it keeps the lock.
hold_lock() {
  [ "${JAM_LOCK_HELD:-}" = "$1" ] && return 0 # an ancestor holds it for us
  mkdir -p "$(dirname "$1")"
  exec 9>>"$1"
  # When the first holder was killed, a step that it had begun may still hold the lock for a moment.
  if ! flock -n 9 && { kill -0 "$(sed -E 's/^process ([0-9]+).*/\1/' "$1")" 2>/dev/null || ! flock -w 30 9; }; then
    die "refused: $2 is held by $(cat "$1"). Wait for it to end, or stop it."
  fi
  printf 'process %s (%s), user %s, since %s' "$$" "$0${SCRIPT_ARGS:+ $SCRIPT_ARGS}" "$(id -un)" "$(date '+%H:%M:%S')" >"$1"
  export JAM_LOCK_HELD=$1
}

# pids_marked NAME=VALUE: the processes that carry this variable in their environment. Everything we start in the
# background carries one, which finds it again even when the script died before it could write the process id down.
pids_marked() {
  grep -lszxF "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | grep -vx "$$" || true
}

# Where Rust and Go are usually installed; a root shell or a CI runner often lacks them on PATH.
for place in "$HOME/.cargo/bin" /usr/local/cargo/bin /usr/local/go/bin; do
  case :$PATH: in *:"$place":*) ;; *) [ ! -d "$place" ] || PATH=$PATH:$place ;; esac
done
export PATH

need_cargo() { command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup (Cargo.toml, rust-version, says which is needed)"; }

# step WHAT COMMAND...: runs it, then says in one line what is done and how long everything has taken so far. Not with `||`:
# that would switch `set -e` off inside the step; a script that fails says in which step by the trap.
step() {
  STEP=$1
  shift
  trap '[ $? = 0 ] || say "${0##*/}: failed at: $STEP"' EXIT
  "$@"
  say "[$(printf '%6s' "$(elapsed)") s] $STEP"
}
