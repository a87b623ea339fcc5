# shellcheck shell=bash
# What one wants to read when something in the cluster failed and only this output is left: run inside dev/cluster/shell.
{
  echo "--- the cluster when it failed"
  kubectl get nodes
  kubectl get jam -A -o wide
  kubectl get pods -A -o wide
  kubectl get events -A --sort-by=.lastTimestamp | tail -n 40
  kubectl -n jam-system logs -l app.kubernetes.io/name=jam-operator --tail=60 --prefix
  kubectl get pods -A --field-selector=status.phase!=Succeeded -o json |
    jq -r '.items[] | select(any(.status.conditions[]?; .type == "Ready" and .status != "True")) | .metadata | "\(.namespace) \(.name)"' |
    head -n 5 | while read -r namespace name; do
    kubectl -n "$namespace" describe pod "$name" | tail -n 30
    kubectl -n "$namespace" logs "$name" --all-containers --tail=30
  done
} >&2 2>&1
