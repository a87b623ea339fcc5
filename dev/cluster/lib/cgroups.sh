# shellcheck shell=bash
# The cgroups that pods run in, on hosts with cgroup v1, v2 or both: jam-NAME-nodeN in every hierarchy.

node_cgroup() { echo "jam-$CLUSTER-node$1"; }

# the mount point of every hierarchy, v1 and v2
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts; }

pure_v2() { [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; }

make_cgroups() { # N
  local point file
  if pure_v2; then enable_controllers; fi
  for point in $(hierarchies); do
    mkdir -p "$point/$(node_cgroup "$1")"
    # v1: a new cpuset is empty, and nothing can run in an empty one
    for file in cpuset.cpus cpuset.mems; do
      if [ -e "$point/$file" ] && ! pure_v2; then cat "$point/$file" >"$point/$(node_cgroup "$1")/$file"; fi
    done
  done
}

# v2 hands controllers down one level at a time, and refuses while processes sit in the level that hands down. On the real
# root that rule does not hold; in a container its processes move to a leaf first, as they do in kind.
enable_controllers() {
  local wanted
  wanted=$(sed -e 's/^/+/' -e 's/ / +/g' /sys/fs/cgroup/cgroup.controllers)
  echo "$wanted" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null && return
  mkdir -p /sys/fs/cgroup/init
  xargs -rn1 </sys/fs/cgroup/cgroup.procs 2>/dev/null >/sys/fs/cgroup/init/cgroup.procs || true
  echo "$wanted" >/sys/fs/cgroup/cgroup.subtree_control ||
    die "cannot hand cgroup controllers down: run on a machine or in a container that owns its cgroup"
}

# our cgroups in every hierarchy
our_cgroups() {
  local point group
  for point in $(hierarchies); do
    for group in "$point/jam-$CLUSTER-node"[0-9]*; do
      if [ -d "$group" ]; then echo "$group"; fi
    done
  done
}

# Processes in our cgroups are pods, and nothing else. A cgroup may vanish while it is read.
cgroup_processes() {
  local group
  for group in $(our_cgroups); do
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -un
}

remove_cgroups() {
  local group
  for group in $(our_cgroups); do
    find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  done
}
