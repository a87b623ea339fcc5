# shellcheck shell=bash
# The two nodes of a cluster: their namespaces, cgroups, container runtime, kubelet and kube-proxy.
#
# Each node lives in its own network, mount and process namespace, whose first process is the pause program. Killing that
# one process ends everything in the node, pods included, and with the last process go the mounts, the links and the
# addresses: that is why `down` is short and works after any interruption. Node 1 also holds the control plane.
#
# Names that are not private to a namespace (cgroups, the folder $RUN) carry the cluster's name.

node_address() { [ "$1" = 1 ] && echo 10.200.0.1 || echo 10.200.$(($1 - 1)).2; }

# in_node N COMMAND...: runs as if on the node. It starts in /, so paths must be absolute.
in_node() {
  local first
  first=$(cat "$RUN/node$1.pid")
  shift
  nsenter -t "$first" -n -m -p -- "$@"
}

# spawn N ROLE COMMAND...: a lasting process on the node. The shell in between ends at once, so that the process belongs to
# the node's first process. The two variables find it from outside.
spawn() {
  local node=$1 role=$2
  shift 2
  JAM_DEV_RUN=$RUN JAM_DEV_ROLE=$role in_node "$node" setsid sh -c \
    'log=$1; shift; umask 022; "$@" >>"$log" 2>&1 </dev/null 9>&- &' sh "$RUN/log/$role.log" "$@" 9>&-
}

make_namespaces() { # N
  local outer first _
  # the outer process only waits for the first one inside; either's end ends the other
  JAM_DEV_RUN=$RUN JAM_DEV_ROLE=node$1 setsid unshare --net --mount --propagation slave --pid --fork --kill-child \
    --mount-proc "$CACHE/images/pause" >/dev/null 2>&1 </dev/null 9>&- &
  outer=$!
  for _ in $(seq 200); do
    first=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null | tr -d ' ')
    [ -n "$first" ] && [ "$(readlink "/proc/$first/exe")" = "$CACHE/images/pause" ] && break
    sleep 0.02
  done
  echo "$first" >"$RUN/node$1.pid"
  process_born "$first" >"$RUN/node$1.born"
  in_node "$1" sh -euc '
    mount --make-rshared /
    # What programs write to fixed places becomes private: sockets, CNI state, links to pod logs.
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/private/cni /run/private/log /run/private/kubelet /run/containerd
    for place in cni kubelet; do mkdir -p /var/lib/$place; mount --bind /run/private/$place /var/lib/$place; done
    mkdir -p /var/log/containers; mount --bind /run/private/log /var/log/containers
    ip link set lo up
    sysctl -qw net.ipv4.ip_forward=1
    sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true'
  shield_sysctls "$1"
}

# kubelet insists on these values, which hold for the whole machine. It finds them here in files of its own instead, so that
# nothing of the machine changes and nothing has to be put back.
shield_sysctls() {
  local name value
  while read -r name value; do
    [ -e "/proc/sys/$name" ] || continue
    mkdir -p "$RUN/node$1/sysctl"
    echo "$value" >"$RUN/node$1/sysctl/${name//\//.}"
    in_node "$1" mount --bind "$RUN/node$1/sysctl/${name//\//.}" "/proc/sys/$name"
  done <<'S'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
S
}

# Node 1 is the router: node0 carries the API server's address, and the default route exists only so that Service addresses
# are routable before kube-proxy rewrites them; it leads nowhere. No packet leaves these namespaces.
connect_node() { # N
  local n=$1 address
  address=$(node_address "$n")
  if [ "$n" = 1 ]; then
    in_node 1 sh -euc "
      ip link add node0 type veth peer name node0p
      ip addr add $address/24 dev node0
      ip link set node0 up
      ip link set node0p up
      ip route add default dev node0"
  else
    in_node 1 sh -euc "
      ip link add n$n type veth peer name up0
      ip addr add 10.200.$((n - 1)).1/30 dev n$n
      ip link set n$n up"
    # by process id as this namespace sees it: from outside, where `ip` of the machine sees both
    nsenter -t "$(cat "$RUN/node1.pid")" -n ip link set up0 netns "$(cat "$RUN/node$n.pid")"
    in_node 1 ip route add "10.244.$n.0/24" via "$address"
    in_node "$n" sh -euc "
      ip addr add $address/30 dev up0
      ip link set up0 up
      ip route add default via 10.200.$((n - 1)).1"
  fi
}

write_node_files() { # N
  local n=$1 folder=$RUN/node$1 snapshotter=overlayfs
  # an overlay cannot lie on an overlay, which is what the root of a container is
  [ "$(stat -f -c %T "$RUN")" = overlayfs ] && snapshotter=native
  echo $snapshotter >"$folder/snapshotter"
  mkdir -p "$folder/cni"
  # Without CAP_SYS_RESOURCE nobody may lower an OOM score: restrict_oom_score_adj, and oomScoreAdj 0 below.
  cat >"$folder/containerd.toml" <<T
version = 2
root = "$folder/containerd"
state = "/run/containerd/state"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:3.10.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
T
  cat >"$folder/cni/10-bridge.conflist" <<T
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
T
  echo "nameserver 127.0.0.1" >"$folder/resolv.conf"
  cat >"$folder/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$(node_cgroup "$n")
failSwapOn: false
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: $folder/resolv.conf
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
tlsCertFile: $RUN/pki/node$n-server.crt
tlsPrivateKeyFile: $RUN/pki/node$n-server.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxOpenFiles: 20000
oomScoreAdj: 0
serializeImagePulls: false
nodeStatusUpdateFrequency: 5s
syncFrequency: ${JAM_SYNC_FREQUENCY:-1m}
volumePluginDir: $folder/volumeplugins
podLogsDir: $folder/podlogs
T
  # conntrack limits are the machine's; minSyncPeriod: a Service is routable 0.1 s, not 1 s, after its pod is ready
  cat >"$folder/proxy.yaml" <<T
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
nftables: {minSyncPeriod: 100ms}
clientConnection: {kubeconfig: $RUN/pki/proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
T
}

# The container runtime and its images need no API server, so they start beside it.
start_runtime() { # N
  local n=$1 folder=$RUN/node$1 _
  spawn "$n" "containerd$n" containerd -c "$folder/containerd.toml"
  for _ in $(seq 300); do
    in_node "$n" ctr version >/dev/null 2>&1 && break
    sleep 0.1
  done
  in_node "$n" ctr version >/dev/null || die "containerd of node $n does not answer: $RUN/log/containerd$n.log"
  load_images "$n"
}

start_kubelet() { # N
  local n=$1 folder=$RUN/node$1
  spawn "$n" "kubelet$n" "$KUBE/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$RUN/pki/node$n.kubeconfig" \
    --hostname-override="node$n" --node-ip="$(node_address "$n")" --root-dir="$folder/kubelet" --cert-dir="$folder/pki"
}

start_proxy() { # N
  local n=$1 folder=$RUN/node$1
  spawn "$n" "proxy$n" "$KUBE/kube-proxy" --config="$folder/proxy.yaml" --hostname-override="node$n"
}

# The bridge lets everything through; this enforces NetworkPolicies on top of it, when asked for.
start_policies() { # N
  [ "${JAM_NETWORK_POLICIES:-}" != enforced ] ||
    spawn "$1" "netpol$1" python3 "$HERE/netpol.py" https://10.200.0.1:6443 "$RUN/pki" "node$1"
}

# load_images N [TAR...]: imports the tars (default: the base images) that the node does not have yet
load_images() {
  local n=$1 tar stamp
  shift
  [ $# -gt 0 ] || set -- "$CACHE/images/pause.tar" "$CACHE/images/coredns.tar" "$CACHE/images/postgres.tar"
  mkdir -p "$RUN/node$n/images"
  for tar in "$@"; do
    tar=$(readlink -f "$tar")
    stamp=$RUN/node$n/images/$(basename "$tar")
    if [ -s "$tar.digest" ] && cmp -s "$tar.digest" "$stamp"; then continue; fi
    in_node "$n" ctr -n k8s.io images import --snapshotter "$(cat "$RUN/node$n/snapshotter")" "$tar" >/dev/null ||
      die "node $n cannot import $tar"
    [ ! -s "$tar.digest" ] || cp "$tar.digest" "$stamp"
  done
}
