# shellcheck shell=bash
# Real input through one instance, as a user would give it: a file, a package that refers to it, its report, its receipts.

# shown COMMAND...: prints the command, then what it prints
shown() {
  echo "  \$ $*"
  "$@" | sed 's/^/    /'
}

# In an existing cluster Service names mean nothing here: a port-forward stands in between.
address_of() { # INSTANCE
  if [ -z "$existing" ]; then
    echo "http://$1.jam"
    return
  fi
  kubectl -n jam port-forward "svc/$1" :80 >"$scratch/forward" 2>&1 &
  echo $! >"$scratch/forward.pid"
  for _ in $(seq 50); do
    grep -q 'Forwarding from 127' "$scratch/forward" && break
    sleep 0.1
  done
  grep -q 'Forwarding from 127' "$scratch/forward" || die "kubectl port-forward svc/$1: $(cat "$scratch/forward")"
  sed -n 's#^Forwarding from \(127.0.0.1:[0-9]*\).*#http://\1#p' "$scratch/forward"
}

# three items over one file; each has parameters of its own
write_package() { # HASH
  local n items=()
  for n in 1 2 3; do
    items+=("{\"kind\": \"hash\", \"params_hash\": \"$(echo "parameters $n" | sha256sum | cut -d' ' -f1)\", \"preimage_hashes\": [\"$1\"]}")
  done
  local IFS=,
  echo "{\"service_id\": \"demo\", \"preimage_hashes\": [\"$1\"], \"items\": [${items[*]}]}"
}

# In a subshell: a step that fails ends the walk, and its files go with it.
walk_through() ( # INSTANCE
  scratch=$(mktemp -d)
  trap 'kill "$(cat "$scratch/forward.pid" 2>/dev/null)" 2>/dev/null || true; rm -rf "$scratch"' EXIT
  umask 077
  kubectl -n jam get secret "$1-token-demo" -o 'jsonpath={.data.token}' | base64 -d >"$scratch/token"
  SERVICE_LAYER_ADDR=$(address_of "$1")
  SERVICE_LAYER_TOKEN=$(cat "$scratch/token")
  export SERVICE_LAYER_ADDR SERVICE_LAYER_TOKEN
  # Ready is not yet routable: for a moment the Service's address refuses.
  for _ in $(seq 50); do
    slctl status >/dev/null 2>&1 && break
    sleep 0.2
  done
  shown slctl jam preimage --file README.md
  write_package "$(sha256sum README.md | cut -d' ' -f1)" >"$scratch/package.json"
  echo "  \$ slctl jam package --file package.json"
  package=$(slctl --output name jam package --file "$scratch/package.json")
  echo "    package $package"
  shown slctl jam process --all
  shown slctl jam report --package "$package"
  shown slctl jam verify --service demo
)

what_next() {
  local shell="dev/cluster/shell -- " name=main
  [ -z "$existing" ] || shell=
  [ "${#instances[@]}" = 2 ] || name=quickstart
  cat <<T

Try next, each line as it stands:
  ${shell}kubectl get jam -A -o wide
  ${shell}kubectl -n jam get all
  ${shell}kubectl -n jam patch jam $name --type merge -p '{"spec":{"runtime":{"jam":{"enabled":false}}}}'
  ${shell}kubectl -n jam patch jam $name --type merge -p '{"spec":{"runtime":{"jam":{"enabled":true}}}}'
T
  if [ -z "$existing" ]; then
    cat <<T
  ${shell}sh -c 'slctl --addr http://$name.jam --token "\$(kubectl -n jam get secret $name-token-demo -o jsonpath={.data.token} | base64 -d)" jam preimage --file LICENSE'
  dev/cluster/shell
  make status
  make down
T
  else
    cat <<T
  kubectl -n jam port-forward svc/$name 8080:80
  kubectl delete -f manifests/quickstart.yaml
T
  fi
}
