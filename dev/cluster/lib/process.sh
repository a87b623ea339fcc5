# shellcheck shell=bash
# When a process was born, in clock ticks since boot; nothing when it is gone or a zombie. Together with its number it names
# one process for ever: numbers are given out again.
process_born() {
  local line
  line=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  line=${line##*) } # the name, in brackets, may hold anything
  # shellcheck disable=SC2086
  set -- $line
  [ "$1" = Z ] || [ "$1" = X ] || echo "${20}"
}
