#!/bin/sh
# PostgreSQL in a pod: initialises an empty volume once, then becomes the server. It needs a writable /tmp and the data
# volume, nothing else.
set -eu
umask 077
: "${PGDATA:=/var/lib/postgresql/data/pgdata}" "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=postgres}"
export PGDATA
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  rm -rf "$PGDATA.new"
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
  initdb -D "$PGDATA.new" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \
    -E UTF8 --locale=C.UTF-8 --data-checksums --no-instructions
  rm -f /tmp/password
  printf 'host all all all scram-sha-256\n' >>"$PGDATA.new/pg_hba.conf"
  if [ "$POSTGRES_DB" != postgres ]; then
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA.new" postgres >/dev/null
  fi
  mv "$PGDATA.new" "$PGDATA" # a crash before this line starts again from nothing
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off -c logging_collector=off "$@"
