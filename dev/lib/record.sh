#!/usr/bin/env bash
# Writes down what a cluster says, until it is stopped: record.sh FOLDER, run inside dev/cluster/shell.
#
#   logs/            the log of every container, also of those that are gone
#   objects/         every version of every object but Secrets, as the API server tells it to watchers
#   answers/         /metrics and /readyz of the operator's and the instances' pods, every few seconds
#   secrets.json     every version of every Secret: what must be in none of the others is known from here
#
# tests/e2e/last.rs reads it. The folder is for the reader's eyes only and goes with the run.
set -euo pipefail
folder=$1
run=$(dirname "$KUBECONFIG")
umask 077
mkdir -p "$folder"/{logs,objects,answers}
server=$(kubectl config view --raw -o jsonpath='{.clusters[0].cluster.server}')

# One line for each kind that can be watched: its path below the server, and a name for its file.
kinds() {
  kubectl api-resources --verbs=watch --no-headers -o wide | awk '
  function name(kind, group) {sub("/.*", "", group); return group == "v1" ? kind : kind "." group}
  {
    for (i = 2; i < NF; i++) if ($i ~ /^(true|false)$/) {group = $(i - 1); break}
    print (group == "v1" ? "/api/v1/" : "/apis/" group "/") $1, name($1, group)
  }'
}

ask_server() {
  curl --no-progress-meter --no-buffer --cacert "$run/pki/ca.crt" --cert "$run/pki/admin.crt" --key "$run/pki/admin.key" "$@"
}

watch_objects() {
  local arguments=() path name
  set +m # in this group
  while read -r path name; do
    case $path in
      /apis/jam.network/*) continue ;;
      /api/v1/secrets) name=../secrets ;;
    esac
    arguments+=("$server$path?watch=1&timeoutSeconds=86400" -o "$folder/objects/$name.json")
  done < <(kinds)
  ask_server --parallel --parallel-immediate --parallel-max 200 "${arguments[@]}"
}

# The watch of a custom resource ends whenever its definition changes.
watch_instances() {
  set +m # in this group
  while :; do
    ask_server "$server/apis/jam.network/v1alpha1/jaminstances?watch=1&timeoutSeconds=86400" >>"$folder/objects/jaminstances.json" || true
    sleep 0.2
  done
}

# A second name keeps a file whose first one the kubelet removes with its pod.
keep_logs() {
  local number log name kept
  while read -r number log; do
    name=${log##*/podlogs/}
    name=${name//\//.}
    kept=$folder/logs/$number.${name:0:200}
    [ -e "$kept" ] || ln "$log" "$kept" 2>/dev/null || true
  done < <(find "$run"/node[12]/podlogs -type f -printf '%i %p\n' 2>/dev/null)
}

ask_pods() {
  local namespace name address
  while read -r namespace name address; do
    for path in 8080/readyz 9090/metrics 8080/metrics; do
      curl --silent --max-time 2 "http://$address:$path" >>"$folder/answers/$namespace.$name" || true
    done
  done < <(kubectl get pods -A -l 'app.kubernetes.io/name in (jam-operator, jam)' --field-selector=status.phase=Running \
    -o jsonpath='{range .items[*]}{.metadata.namespace} {.metadata.name} {.status.podIP}{"\n"}{end}' 2>/dev/null)
}

set -m # each in a process group of its own, which ends as one
watch_objects &
watcher=$!
watch_instances &
instances=$!
trap 'kill -- -$watcher -$instances 2>/dev/null' EXIT
trap 'exit 0' INT TERM HUP
round=0
while kill -0 $watcher 2>/dev/null; do
  keep_logs
  [ $((round++ % 20)) != 0 ] || ask_pods
  sleep 0.5
done
echo "record.sh: the watch of objects ended" >&2
exit 1
