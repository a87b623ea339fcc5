#!/usr/bin/env bash
# Prints SRC:DST lines for mkimage.py: each program and the shared libraries it needs, each at its own path, once.
set -euo pipefail
for file in "$@"; do
  echo "$(readlink -f "$file"):$file"
  # ldd fails on a static program, which needs nothing
  { ldd "$file" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r library; do
    echo "$(readlink -f "$library"):$library"
  done
done | sort -u -t: -k2,2
