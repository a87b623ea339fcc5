# shellcheck shell=bash
# The suites of dev/test and how their results are counted.
#
# A suite is a function suite_NAME. Tests run by cargo are counted from its `test result:` lines; a check of another kind
# prints such a line itself, through `check`.

# check WHAT COMMAND...: one check of a suite that has no test harness
check() {
  say "   $1"
  if "${@:2}"; then
    echo "test result: ok. 1 passed; 0 failed; 0 ignored;"
  else
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; ($1)"
    return 1
  fi
}

# A build of the whole workspace unifies features and hides what a crate forgot to ask for.
each_alone() {
  local package
  for package in $(cargo metadata --no-deps --format-version 1 | jq -r '.packages[].name'); do
    cargo check --quiet -p "$package" || return 1
  done
}

targets() { cargo metadata --no-deps --format-version 1 | jq -r '.packages[].targets[] | select(.kind[] == "test") | .name' | sort -u; }

suite_lint() {
  local failed=0
  check "cargo fmt --check" cargo fmt --all --check || failed=1
  check "cargo clippy" cargo clippy --workspace --all-targets -- -D warnings || failed=1
  check "each crate alone" each_alone || failed=1
  return $failed
}

suite_unit() {
  cargo test --workspace --lib --bins --no-fail-fast && cargo test --workspace --doc --no-fail-fast
}

# in_time COMMAND...: ends it after 48 minutes, while there is time to say which test hangs (the harness names it after one minute)
#
# In the foreground, so that Ctrl-C reaches it; then nobody but us ends the test program that cargo has started.
in_time() {
  local rc=0
  timeout --foreground "${JAM_SUITE_LIMIT:-48m}" "$@" || rc=$?
  [ $rc != 124 ] || pkill -f "^$PROJECT/target/[a-z]+/" || true
  return $rc
}

# with_a_second_look COMMAND... --: cargo test, and if a few tests failed then these once more, by themselves
#
# On two cores a deadline is missed some time in eight hundred tests. A test that fails twice has failed; one that passes the second
# time is named at the end of the run (docs/adr/0035).
with_a_second_look() {
  local log rc=0 failed
  log=$(mktemp -p "$results")
  "$@" | tee "$log" || rc=$?
  mapfile -t failed < <(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$log")
  [ $rc != 0 ] && [ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le 3 ] || return $rc
  say "   once more, by themselves: ${failed[*]}"
  while [ "${*: -1}" != -- ]; do set -- "${@:1:$#-1}"; done
  rc=0
  "$@" --exact --test-threads=1 "${failed[@]}" || rc=$?
  [ $rc != 0 ] || printf 'test %s ... passed at the second attempt\n' "${failed[@]}"
  echo "test result: of the first attempt only the passed ones count. 0 passed; -${#failed[@]} failed; 0 ignored;"
  return $rc
}

# every test target except those that need the two-node cluster
suite_integration() {
  local name args=()
  # built before the tests run, so that no test's own deadline pays for it
  "$HERE/cluster/build" kube etcd helm && "$HERE/schemathesis/install" >/dev/null || return 1
  for name in $(targets); do [ "$name" = e2e ] || args+=(--test "$name"); done
  [ ${#args[@]} -gt 0 ] || return 0
  with_a_second_look in_time cargo test --workspace "${args[@]}" --no-fail-fast --
}

suite_chart() {
  local helm failed=0
  helm=$("$HERE/cluster/build" --print-path helm)/helm
  check "helm lint --strict" "$helm" lint --strict charts/jam-operator || failed=1
  check "helm template" quietly "$helm" template jam-operator charts/jam-operator --namespace jam-system || failed=1
  return $failed
}
quietly() { "$@" >/dev/null; }

suite_e2e() {
  local rc=0
  if [ "${JAM_E2E_CLUSTER:-}" = existing ]; then
    say "   not run in an existing cluster, for want of its nodes, audit log and images: $(printf '%s ' "${OWN_CLUSTER[@]}")"
    # shellcheck disable=SC2046
    cargo test --workspace --test e2e --no-fail-fast -- --test-threads=2 $(printf -- '--skip %s:: ' "${OWN_CLUSTER[@]}")
    return
  fi
  end_to_end_begin || return 1
  "$HERE/cluster/shell" -- bash "$HERE/lib/record.sh" "$JAM_E2E_RECORD" >"$CACHE/log/record.log" 2>&1 &
  local recorder=$!
  # Ten minutes at rest and fifty rotations are waited for beside whatever bears company; drained and dead nodes bear none.
  local long
  long=$(mktemp -p "$results")
  end_to_end_pass --test-threads=2 steady:: rotation::pods >"$long" 2>&1 &
  local waiting=$!
  end_to_end_pass --test-threads=2 --skip steady:: --skip rotation::pods --skip alone:: --skip last:: || rc=1
  wait $waiting || rc=1
  cat "$long"
  end_to_end_pass --test-threads=1 alone:: || rc=1
  end_to_end_pass last:: || rc=1
  kill $recorder 2>/dev/null || true
  wait $recorder 2>/dev/null || true
  end_to_end_down
  return $rc
}

# the cluster's name
END_TO_END=${JAM_E2E_NAME:-e2e}
# modules of tests/e2e that need the cluster of dev/cluster
OWN_CLUSTER=(alone bad_rollouts databases deletions last migrations network optional overrides repair rollback rollouts rotation steady)

# Inside, no network is there to ask a registry.
end_to_end_pass() {
  CARGO_NET_OFFLINE=true with_a_second_look "$HERE/cluster/shell" -- cargo test --workspace --test e2e --no-fail-fast -- "$@" || {
    "$HERE/cluster/shell" -- bash "$HERE/lib/diagnose.sh" || true
    return 1
  }
}

# The cluster with the operator on it, and what the tests are compiled to.
end_to_end_begin() {
  # The kubelet's period is what a mounted Secret waits for.
  export JAM_CLUSTER=$END_TO_END JAM_SYNC_FREQUENCY=1s JAM_NETWORK_POLICIES=enforced JAM_E2E_RECORD=$CACHE/run/$END_TO_END/record
  cargo build --workspace --bins && cargo test --workspace --test e2e --no-run && end_to_end_up
}

# Debug binaries: building them again for release would take as long as everything else together.
end_to_end_up() {
  local tars
  end_to_end_begun=yes
  "$HERE/cluster/up" || return 1
  tars=$("$HERE/images/build" --bin-dir "${CARGO_TARGET_DIR:-$PROJECT/target}/debug" operator api api-next api-broken api-unserving consumer) || return 1
  # Rotations in seconds (adr/0020), from before the first test: the operator is not restarted under the others.
  # shellcheck disable=SC2086
  "$HERE/cluster/load" $tars && JAM_PROGRESS_DEADLINE=30 JAM_OPERATOR_VALUES=$HERE/lib/short-hours.yaml "$HERE/cluster/shell" -- "$HERE/deploy" operator || {
    "$HERE/cluster/shell" -- bash "$HERE/lib/diagnose.sh"
    return 1
  }
}

end_to_end_down() {
  [ -n "${end_to_end_begun:-}" ] || return 0
  JAM_CLUSTER=$END_TO_END "$HERE/cluster/down" && end_to_end_begun=
}

# run_suite NAME: its output, and one line of result into $results/NAME
run_suite() {
  local name=$1 began=$SECONDS rc=0 passed failed skipped
  say ""
  say "== $name"
  "suite_$name" > >(tee "$results/$name.log") || rc=$?
  wait $! 2>/dev/null || true # the last lines may still be on their way through tee
  read -r passed failed skipped < <(sed -nE \
    's/.*test result: .* ([0-9]+) passed; (-?[0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$results/$name.log" |
    awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}')
  # something broke outside the tests: not built, no cluster, or nothing to run
  if [ $rc != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
  if [ $((passed + failed)) = 0 ]; then
    say "suite $name ran nothing, which counts as a failure"
    failed=1
  fi
  echo "$name $passed $failed $skipped $((SECONDS - began))" >"$results/$name"
}

# What failed, and what passed at the second attempt only.
outcomes() {
  awk '
    /^test result: FAILED.*\(/ {print}
    /^test .* \.\.\. FAILED$/ {failed[$2] = $0}
    /^test .* passed at the second attempt$/ {delete failed[$2]; print}
    END {for (name in failed) print failed[name]}'
}

summary() {
  local name
  echo
  printf '%-12s %7s %7s %8s %8s\n' suite passed failed skipped seconds
  for name in "${suites[@]}"; do
    # shellcheck disable=SC2046
    printf '%-12s %7s %7s %8s %8s\n' $(cat "$results/$name")
  done
  for name in "${suites[@]}"; do
    outcomes <"$results/$name.log" | sed "s/^/$name: /"
  done
  for name in "${suites[@]}"; do cat "$results/$name"; done |
    awk '{p += $2; f += $3} END {printf "%d passed, %d failed\n", p, f; exit f > 0}'
}
