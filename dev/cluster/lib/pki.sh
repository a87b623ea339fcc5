# shellcheck shell=bash
# Throw-away certificates and kubeconfigs for one run: P-256, a year, made in well under a second.

# make_ca FILE NAME
make_ca() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -sha256 -subj "/CN=$2" \
    -keyout "$1.key" -out "$1.crt" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
}

# make_leaf FILE CA SUBJECT USAGE [ALTERNATIVE-NAMES]
make_leaf() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -sha256 -subj "$3" \
    -CA "$2.crt" -CAkey "$2.key" -keyout "$1.key" -out "$1.crt" -addext basicConstraints=critical,CA:FALSE \
    -addext keyUsage=critical,digitalSignature -addext "extendedKeyUsage=$4" \
    ${5:+-addext "subjectAltName=$5"} 2>/dev/null
}

# make_pki FOLDER ADDRESS...: everything an API server at these addresses and its clients need.
# Run in parallel: the certificates do not depend on each other, only on their authority. In a subshell, so that `wait`
# means these and not what else the caller has in the background.
make_pki() (
  local names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
  names+=,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1
  local address
  for address in "${@:2}"; do names+=,IP:$address; done
  mkdir -p "$1"
  cd "$1"
  make_ca ca kubernetes-ca &
  make_ca front-proxy-ca front-proxy-ca &
  make_ca etcd-ca etcd-ca &
  wait
  make_leaf apiserver ca /CN=kube-apiserver serverAuth "$names" &
  make_leaf apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth &
  make_leaf front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth &
  make_leaf etcd etcd-ca /CN=etcd serverAuth,clientAuth DNS:localhost,IP:127.0.0.1 &
  make_leaf admin ca /O=system:masters/CN=admin clientAuth &
  make_leaf controller-manager ca /CN=system:kube-controller-manager clientAuth &
  make_leaf scheduler ca /CN=system:kube-scheduler clientAuth &
  make_leaf proxy ca /CN=system:kube-proxy clientAuth &
  {
    openssl ecparam -name prime256v1 -genkey -noout -out service-accounts.key
    openssl ec -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
  } &
  wait
  [ -s apiserver.crt ] && [ -s service-accounts.pub ] || die "openssl could not make the certificates in $1"
)

# make_node_pki FOLDER NODE ADDRESS
make_node_pki() (
  cd "$1"
  make_leaf "$2" ca "/O=system:nodes/CN=system:node:$2" clientAuth
  make_leaf "$2-server" ca "/O=system:nodes/CN=system:node:$2" serverAuth "DNS:$2,IP:$3"
)

# write_kubeconfig FOLDER USER SERVER OUT
write_kubeconfig() {
  (
    umask 077
    cat >"$4" <<Y
apiVersion: v1
kind: Config
clusters:
- name: jam-dev
  cluster: {server: "$3", certificate-authority-data: $(base64 -w0 "$1/ca.crt")}
users:
- name: $2
  user: {client-certificate-data: $(base64 -w0 "$1/$2.crt"), client-key-data: $(base64 -w0 "$1/$2.key")}
contexts:
- name: jam-dev
  context: {cluster: jam-dev, user: $2}
current-context: jam-dev
Y
  )
}
