#!/usr/bin/env bash
# The part of dev/demo that runs where the cluster is reachable.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$HERE/lib/common.sh"
cd "$PROJECT"

NAMESPACE=jam-demo
scratch=$(mktemp -d)
trap 'kill "$(cat "$scratch/client" 2>/dev/null)" 2>/dev/null || true; rm -rf "$scratch"; kubectl delete namespace $NAMESPACE --wait=false >/dev/null 2>&1 || true' EXIT

k() { kubectl -n $NAMESPACE "$@"; }
shown() {
  echo "  \$ kubectl -n $NAMESPACE $*"
  k "$@" | sed 's/^/    /'
}
chapter() { printf '\n%s\n' "$*"; }
field() { k get jam production -o "jsonpath={$1}"; }
# until_says FIELD WORD SECONDS: waits until the status says it
until_says() {
  for _ in $(seq $(($3 * 2))); do
    [ "$(field "$1")" = "$2" ] && return
    sleep 0.5
  done
  k get jam production -o yaml >&2
  die "not within $3 s: $1 = $2"
}

# One request after the other, each with the token that the Secret holds now; its answer's code is a line of the file.
client() {
  local token=
  echo $BASHPID >"$scratch/client"
  while :; do
    token=$(k get secret production-token-indexer -o 'jsonpath={.data.token}' 2>/dev/null | base64 -d) || true
    for _ in $(seq 5); do
      curl --noproxy '*' -s -o /dev/null -m 5 -w '%{http_code}\n' -K - http://production.$NAMESPACE/jam/status \
        <<<"header = \"Authorization: Bearer $token\"" >>"$scratch/answers" || true
      sleep 0.1
    done
  done
}
# what the client was answered since the last time it was asked
answers() {
  local seen
  seen=$(sort "$scratch/answers" | uniq -c | awk '{printf "%s%s times %s", (NR > 1 ? ", " : ""), $1, $2}')
  echo "  a client that called all the while was answered: $seen"
  : >"$scratch/answers"
}

chapter "1. The production manifest: two replicas on two nodes, a worker, a budget that lets one go at a time"
sed "s/^  namespace: jam$/  namespace: $NAMESPACE/" manifests/production.yaml | kubectl apply -f - >/dev/null
k wait --for=condition=Ready --timeout=180s jam/production >/dev/null
shown get jam,pods,pdb
sleep 2 # ready is not yet routable
: >"$scratch/answers"
client 2>/dev/null &

chapter "2. Switched off and on again: 404 in between, nothing else, and the data stays"
sleep 3
answers
shown patch jam production --type merge -p '{"spec":{"runtime":{"jam":{"enabled":false}}}}'
k rollout status deployment/production --timeout=120s >/dev/null
until_says '.status.enabled' false 60
k patch jam production --type merge -p '{"spec":{"runtime":{"jam":{"enabled":null}}}}' >/dev/null
until_says '.status.enabled' true 60
k rollout status deployment/production --timeout=120s >/dev/null
k wait --for=condition=Ready --timeout=120s jam/production >/dev/null
answers

chapter "3. A release that migrates and then does not serve: the old pods go on, the last good revision comes back, the evidence is kept"
api_pods() { k get pods -l app.kubernetes.io/instance=production,app.kubernetes.io/component=api -o name | sort; }
before=$(api_pods)
: >"$scratch/answers"
shown patch jam production --type merge -p '{"spec":{"image":{"repository":"localhost/jam-api","tag":"unserving"}}}'
k wait --for='jsonpath={.status.conditions[?(@.type=="Ready")].reason}=RolledBack' --timeout=180s jam/production >/dev/null
shown get jam production -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}{"\n"}'
shown get events --field-selector reason=RolledBack -o 'custom-columns=TYPE:.type,NOTE:.message'
evidence=$(field '.status.rollout.evidence')
echo "    kept in ConfigMap $evidence:"
k get configmap "$evidence" -o json | jq -r '.data | to_entries[] | "\(.key): \(.value)"' | head -n 6 | cut -c1-140 | sed 's/^/      /'
k rollout status deployment/production --timeout=120s >/dev/null
shown get pods -l app.kubernetes.io/instance=production
echo "    of the API's $(echo "$before" | wc -l) pods, $(comm -12 <(echo "$before") <(api_pods) | wc -l) are the ones from before"
answers
k patch jam production --type merge -p '{"spec":{"image":null}}' >/dev/null
k wait --for=condition=Ready --timeout=120s jam/production >/dev/null

# each_pod TOKEN WHAT WANTED: asks every API pod itself, not the Service, and says what it answered
each_pod() {
  local pod address code
  while read -r pod address; do
    code=$(curl --noproxy '*' -s -o /dev/null -m 5 -w '%{http_code}' -K - "http://$address:8080/jam/status" <<<"header = \"Authorization: Bearer $1\"") || true
    echo "      pod $pod answers $code to $2"
    [ "$code" = "$3" ] || die "pod $pod was to answer $3"
  done < <(k get pods -l app.kubernetes.io/instance=production,app.kubernetes.io/component=api --field-selector status.phase=Running -o json |
    jq -r '.items[] | select(.metadata.deletionTimestamp == null) | "\(.metadata.name) \(.status.podIP)"')
}
of_secret() { k get secret production-token-indexer -o "jsonpath={.data.$1}" | base64 -d; }

chapter "4. A token replaced, then revoked: each step when every pod has proven it, the client never refused"
old=$(of_secret id) old_token=$(of_secret token)
: >"$scratch/answers"
shown annotate jam production jam.network/rotate=indexer --overwrite
for _ in $(seq 120); do
  now=$(of_secret id)
  [ "$now" != "$old" ] && break
  sleep 0.5
done
[ "$now" != "$old" ] || die "the token was not replaced"
now_token=$(of_secret token)
echo "    key $old is followed by $now; both are accepted until the overlap ends:"
each_pod "$now_token" "the new key $now" 200
each_pod "$old_token" "the old key $old" 200
sleep 2
shown annotate jam production "jam.network/revoke=$old" --overwrite
for _ in $(seq 120); do
  field '.status.rotation.refused' | grep -q "$old" && break
  sleep 0.5
done
echo "    the status says who refused it: $(field '.status.rotation.refused')"
each_pod "$now_token" "the new key $now" 200
each_pod "$old_token" "the revoked key $old" 401
answers

printf '\nThat was the demonstration. docs/OPERATIONS.md walks through each of these by hand.\n'
