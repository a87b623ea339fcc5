# shellcheck shell=bash
# Ends everything of one cluster, also what an interrupted `up` left: found by the mark in its environment or by its cgroup,
# never by name. Succeeds when nothing is there.

our_processes() {
  pids_marked "JAM_DEV_RUN=$RUN"
  cgroup_processes
}

teardown() {
  local n first pids _
  # First the nodes' first processes: the kernel ends with them whatever runs inside.
  for n in 1 2; do
    first=$(cat "$RUN/node$n.pid" 2>/dev/null) || continue
    [ -n "$first" ] && [ "$(process_born "$first")" = "$(cat "$RUN/node$n.born" 2>/dev/null)" ] || continue
    kill -KILL "$first" 2>/dev/null || true
  done
  for _ in $(seq 100); do
    pids=$(our_processes)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  [ -z "$pids" ] || die "these processes do not end: $pids"
  for _ in $(seq 20); do
    remove_cgroups
    [ -z "$(our_cgroups)" ] && break
    sleep 0.1
  done
  unmount_leftovers
  keep_logs
  rm -rf "$RUN"
  remove_mount_points
}

# Mounts end with their namespace; one can remain only when something outside holds it.
unmount_leftovers() {
  awk -v run="$RUN/" 'index($2, run) == 1 {print $2}' /proc/mounts | sort -r | while read -r point; do
    umount -l "$point" || true
  done
}

# The empty folders that nodes mount their private ones on. Not while another cluster runs: its mounts would go with them.
remove_mount_points() {
  compgen -G "$CACHE/run/*/node1.pid" >/dev/null || rmdir /var/lib/cni /var/lib/kubelet /var/log/containers 2>/dev/null || true
}

# The logs of the last run stay for who wants to know why it failed; the run before is dropped.
keep_logs() {
  [ -d "$RUN/log" ] || return 0
  rm -rf "$CACHE/log/cluster-$CLUSTER"
  mkdir -p "$CACHE/log"
  cp -r "$RUN/log" "$CACHE/log/cluster-$CLUSTER" 2>/dev/null || true
}
