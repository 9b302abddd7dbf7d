#!/bin/bash
# Runs every fuzz target for the given time each. What it finds is written to
# testdata/fuzz beside the target, to be committed with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
grep -rlE --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
  sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file" | while read -r target; do
    echo "fuzz: $target in $(dirname "$file") for $time" >&2
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$(dirname "$file")"
  done
done
