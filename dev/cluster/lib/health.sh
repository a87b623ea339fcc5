# shellcheck shell=bash
# What makes a running cluster healthy, asked of the cluster itself.

ROLES=(node1 node2 etcd apiserver controller-manager scheduler containerd1 kubelet1 proxy1 containerd2 kubelet2 proxy2)

kubectl() {
  KUBECONFIG=$RUN/admin.kubeconfig nsenter -t "$(cat "$RUN/node1.pid")" -n "$KUBE/kubectl" "$@"
}

# Node 1's first process is the one that we started, not another that got its number.
node_running() {
  [ -s "$RUN/node$1.pid" ] && [ -s "$RUN/node$1.born" ] &&
    [ "$(process_born "$(cat "$RUN/node$1.pid")")" = "$(cat "$RUN/node$1.born")" ]
}

# the processes of a role, such as kubelet1
role_processes() { pids_marked "JAM_DEV_RUN=$RUN" | sed 's#.*#/proc/&/environ#' | xargs -r grep -lszxF "JAM_DEV_ROLE=$1" 2>/dev/null | cut -d/ -f3; }

role_running() { [ -n "$(role_processes "$1")" ]; }

api_ready() {
  node_running 1 && [ "$(nsenter -t "$(cat "$RUN/node1.pid")" -n curl -s --max-time 2 --cacert "$RUN/pki/ca.crt" \
    --cert "$RUN/pki/admin.crt" --key "$RUN/pki/admin.key" https://10.200.0.1:6443/readyz)" = ok ]
}

nodes_ready() { [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -c ' Ready ')" = 2 ]; }

dns_ready() { [ "$(kubectl -n kube-system get deployment coredns -o jsonpath='{.status.readyReplicas}' 2>/dev/null)" = 1 ]; }

healthy() {
  local role
  node_running 1 && node_running 2 && api_ready || return 1
  for role in "${ROLES[@]}"; do role_running "$role" || return 1; done
  nodes_ready && dns_ready
}
