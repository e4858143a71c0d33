#!/bin/sh
# Set the passwords of .env in the running PostgreSQL and RabbitMQ, which keep theirs in volumes, so
# that a new .env works with old volumes. Idempotent; `make up` runs it. Neither command asks for the
# old password: both run inside the containers. Redis takes its password at each start.
set -eu

# shellcheck disable=SC2016 # Expanded inside the container.
docker compose exec -T postgres sh -c '
    exec psql --quiet --no-psqlrc --username bff --dbname bff \
        --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD"
' <<'SQL'
ALTER ROLE bff PASSWORD :'password';
SQL

# shellcheck disable=SC2016 # Expanded inside the container. From stdin: a password may begin with -.
docker compose exec -T rabbitmq sh -c '
    printf "%s\n" "$RABBITMQ_DEFAULT_PASS" | rabbitmqctl --quiet change_password bff
' </dev/null
