# shellcheck shell=bash
# The flags of etcd, kube-apiserver and kube-controller-manager: one place, so that both modes run the same servers.
# Each function prints one flag per line.

# etcd listens with TLS and demands our client certificate: on a shared loopback nobody else may write to it, and an API
# server that finds a stranger's etcd on the port fails loudly. Nothing here has to outlive the machine: no fsync.
etcd_flags() { # PKI DATA CLIENT-PORT PEER-PORT
  cat <<F
--name=jam-dev
--data-dir=$2
--listen-client-urls=https://127.0.0.1:$3
--advertise-client-urls=https://127.0.0.1:$3
--listen-peer-urls=http://127.0.0.1:$4
--initial-advertise-peer-urls=http://127.0.0.1:$4
--initial-cluster=jam-dev=http://127.0.0.1:$4
--cert-file=$1/etcd.crt
--key-file=$1/etcd.key
--client-cert-auth
--trusted-ca-file=$1/etcd-ca.crt
--unsafe-no-fsync
--quota-backend-bytes=4294967296
--auto-compaction-mode=periodic
--auto-compaction-retention=5m
F
}

apiserver_flags() { # PKI ETCD-PORT AUDIT-LOG AUDIT-POLICY
  cat <<F
--etcd-servers=https://127.0.0.1:$2
--etcd-cafile=$1/etcd-ca.crt
--etcd-certfile=$1/etcd.crt
--etcd-keyfile=$1/etcd.key
--tls-cert-file=$1/apiserver.crt
--tls-private-key-file=$1/apiserver.key
--client-ca-file=$1/ca.crt
--service-account-issuer=https://kubernetes.default.svc.cluster.local
--service-account-key-file=$1/service-accounts.pub
--service-account-signing-key-file=$1/service-accounts.key
--service-cluster-ip-range=10.96.0.0/16
--authorization-mode=Node,RBAC
--enable-admission-plugins=NodeRestriction
--allow-privileged=true
--kubelet-client-certificate=$1/apiserver-kubelet-client.crt
--kubelet-client-key=$1/apiserver-kubelet-client.key
--kubelet-certificate-authority=$1/ca.crt
--kubelet-preferred-address-types=InternalIP
--requestheader-client-ca-file=$1/front-proxy-ca.crt
--requestheader-allowed-names=front-proxy-client
--requestheader-extra-headers-prefix=X-Remote-Extra-
--requestheader-group-headers=X-Remote-Group
--requestheader-username-headers=X-Remote-User
--proxy-client-cert-file=$1/front-proxy-client.crt
--proxy-client-key-file=$1/front-proxy-client.key
--enable-aggregator-routing=true
--audit-policy-file=$4
--audit-log-path=$3
--audit-log-maxsize=256
--audit-log-maxbackup=4
F
}

# 20 requests a second, the default, would make pods and garbage collection wait in line.
controller_manager_flags() { # PKI KUBECONFIG
  cat <<F
--kubeconfig=$2
--authentication-kubeconfig=$2
--authorization-kubeconfig=$2
--use-service-account-credentials=true
--service-account-private-key-file=$1/service-accounts.key
--root-ca-file=$1/ca.crt
--cluster-signing-cert-file=$1/ca.crt
--cluster-signing-key-file=$1/ca.key
--leader-elect=false
--secure-port=0
--kube-api-qps=500
--kube-api-burst=1000
--concurrent-replicaset-syncs=20
--concurrent-job-syncs=20
--node-monitor-period=2s
--node-monitor-grace-period=20s
F
}
