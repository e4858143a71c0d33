#!/bin/sh
# Give the BFF's user of RabbitMQ the least rights that it works with. Idempotent.
#
#     sh deploy/rabbitmq-permissions.sh [COMMAND ...]
#
# COMMAND is how rabbitmqctl is run, for instance `docker compose exec -T rabbitmq rabbitmqctl`.
# The user must exist: rabbitmqctl add_user {{ cookiecutter.project_slug }}
set -eu

APP_NAME=${APP_NAME:-{{ cookiecutter.project_slug }}}
RABBITMQ_USER=${RABBITMQ_USER:-$APP_NAME}
RABBITMQ_VHOST=${RABBITMQ_VHOST:-/}
[ $# -gt 0 ] || set -- rabbitmqctl

service="nuropb-$APP_NAME-sq|$APP_NAME\\.redelivered-calls\\.v1"
events="$APP_NAME\\.events\\..*"

# Declares its own queues, the reply queue (amq.gen-...) and the exchanges of the mesh.
configure="^($APP_NAME\\..*|$service|amq\\.gen.*|nuropb-(rpc|events|dl)-exchange)\$"
# Binds its queues and publishes. amq.default carries replies and dead letters.
write="^($events|$service|nuropb-(rpc|events|dl)-exchange|amq\\.default)\$"
# Consumes its queues, binds them to the exchanges.
read="^($events|$service|amq\\.gen.*|nuropb-(rpc|events)-exchange)\$"

"$@" set_permissions -p "$RABBITMQ_VHOST" "$RABBITMQ_USER" "$configure" "$write" "$read"
